// Asking the server, for a run of the pair or of one model alone.

// As declared: the knobs that the page has, the names of the repairs by their kind in a trace, numeric tokens.
const { knobs: KNOBS, repairs: REPAIRS, numeric } = JSON.parse($("declared").textContent);
const NUMERIC = new RegExp(numeric);
const idOf = (knob) => knob.name.replaceAll("_", "-");

for (const knob of KNOBS) {
  const { words, min, max, step } = knob;
  const input = element(words.length ? "select" : "input");
  input.id = idOf(knob);
  if (words.length) input.append(new Option("default", ""), ...words.map((word) => new Option(word)));
  else Object.assign(input, { type: "number", min: min ?? "", max: max ?? "", step, placeholder: "default" });
  const name = knob.name.replaceAll("_", " ");
  const field = titled(element("label", "field", `${name[0].toUpperCase()}${name.slice(1)} `, input), knob.help);
  field.id = `${input.id}-field`;
  $("fields").append(field);
}

const pair = () => $("model").options[0]?.value;
const repairInUse = () => $("repair").value || serverRepair || Object.values(REPAIRS)[0];
const isOfPair = (knob) => knob.scope !== "run"; // a model alone has no use for it
const isInUse = (knob) => knob.repairs?.includes(repairInUse()) ?? true;

/** The settings that were changed. A number of a repair is sent with the repair's name: without it, a server may take another. */
function settings(model) {
  const chosen = {};
  for (const knob of KNOBS) {
    const { value } = $(idOf(knob));
    if (value === "" || !isInUse(knob) || (isOfPair(knob) && model !== pair())) continue;
    chosen[knob.name] = knob.words.length ? value : Number(value);
    if (knob.repairs) chosen.repair = repairInUse();
  }
  return chosen;
}

/** Show the numbers of the repair in use, and hide the others'. */
function showRepair() {
  for (const knob of KNOBS) $(`${idOf(knob)}-field`).hidden = !isInUse(knob);
}

/** What the server takes where nothing is asked, as far as a run that it made tells. */
function learnDefaults(config, asked) {
  if (asked.repair === undefined) serverRepair = REPAIRS[config.repair?.kind] ?? null;
  for (const knob of KNOBS) {
    const value = config.repair?.[knob.name] ?? config[knob.name];
    if (asked[knob.name] === undefined && is("number", value)) $(idOf(knob)).placeholder = value;
  }
  showRepair();
}

/** Do something that asks the server, with Stop in place of Ask; says what went wrong. */
async function during(work) {
  const began = performance.now();
  const control = new AbortController();
  const seconds = () => (performance.now() - began) / 1000;
  let ended = "";
  going = control;
  fail("");
  setGoing(true);
  try {
    await work(control.signal, seconds);
  } catch (error) {
    ended = control.signal.aborted ? `Stopped after ${inSeconds(seconds())}.` : "Failed.";
    if (error.status === 401) {
      $("key-field").hidden = false;
      $("key").focus();
    }
    if (!control.signal.aborted) fail(error.message);
  }
  going = null;
  setGoing(false);
  return ended;
}

function setGoing(on) {
  const focused = document.activeElement;
  $("go").hidden = on;
  $("stop").hidden = !on;
  $("alone").textContent = on ? "Stop" : "Run the base model alone";
  for (const id of ["runs", "file"]) $(id).disabled = on;
  if (focused === $("go")) $("stop").focus();
  if (focused === $("stop")) $("go").focus();
}

async function ask() {
  const question = $("question").value.trim();
  let trace = null;
  const ended = await during(async (signal, seconds) => {
    if (!pair()) await loadModels();
    const model = $("model").value;
    const chosen = settings(model);
    const mode = model === `${pair()}-base` ? "base" : model === `${pair()}-draft` ? "draft" : "specreason";
    forgetExample();
    const empty = { config: {}, steps: [], answer: "", answer_call: null, wasted: [], seconds: 0, partial: true };
    show({ ...empty, question, mode, model });
    say("Thinking");
    $("status").classList.add("busy");
    const clock = setInterval(() => {
      shown.seconds = seconds();
      showTotals();
    }, 100);
    try {
      let writing = null; // text that comes outside of a step: of one model alone
      trace = await complete(model, question, chosen, signal, {
        step(step) {
          writing?.remove();
          writing = null;
          endLive();
          shown.steps.push(step);
          addStep(step, shown.steps.length);
          drawTimeline();
          const said = [author(step), fate(step), scored(step)];
          say(`Step ${shown.steps.length}: ${said.filter(Boolean).join(", ")}`);
        },
        draft: mode === "specreason" && showLive,
        reasoning(text) {
          if (!writing && !text.trim()) return;
          if (!writing) {
            writing = element("li", `step ${mode === "draft" ? "draft" : "base"}`, element("div", "text"));
            $("steps").append(writing);
          }
          following(() => writing.lastChild.append(text));
        },
        answer(text) {
          if (!shown.answer) say("Answering");
          shown.answer += text;
          showAnswer();
        },
      });
      if (!trace) say("Done; the server sent no trace.");
    } finally {
      clearInterval(clock);
      $("status").classList.remove("busy");
      $("answers").ariaBusy = false;
      endLive();
    }
    if (trace) {
      origins.set(trace, { question, pair: pair(), settings: chosen });
      runs.push(trace);
      show(trace, trace.steps.length === shown.steps.length);
    }
  });
  if (ended && shown?.partial) say(ended);
}

async function askAlone() {
  const trace = shown;
  const { question, pair, settings } = origins.get(trace);
  const others = { ...settings };
  for (const knob of KNOBS.filter(isOfPair)) delete others[knob.name];
  let alone = null;
  $("alone-status").textContent = "Running";
  $("alone-status").classList.add("busy");
  const ended = await during(async (signal, seconds) => {
    const clock = setInterval(() => showComparison(trace, { seconds: seconds(), partial: true }), 100);
    try {
      alone = await complete(`${pair}-base`, question, others, signal);
      if (!alone) throw new Error("The server sent no trace.");
      runs.push(alone);
    } finally {
      clearInterval(clock);
    }
  });
  showRuns();
  if (alone && document.activeElement === $("alone")) $("compare-title").focus({ preventScroll: true });
  showComparison(trace, alone);
  $("alone-status").textContent = ended;
  $("alone-status").classList.remove("busy");
}
