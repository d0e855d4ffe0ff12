// Asking the server, for a run of the pair or of one model alone.

const KNOBS = { correct: "delta", rewrite: "threshold" }; // of each repair, its number

const pair = () => $("model").options[0]?.value;
const repairInUse = () => $("repair").value || serverRepair || "correct";

/** The settings that were changed. A number of a repair is sent with the repair's name: without it, a server may take another. */
function settings(model) {
  const ids = { temperature: "temperature", token_budget: "token-budget" };
  const number = KNOBS[repairInUse()];
  if (model === pair()) Object.assign(ids, { [number]: number, lookahead: "lookahead" });
  const changed = Object.entries(ids).filter(([, id]) => $(id).value !== "");
  const chosen = Object.fromEntries(changed.map(([name, id]) => [name, Number($(id).value)]));
  if (model === pair() && ($("repair").value || number in chosen)) chosen.repair = repairInUse();
  return chosen;
}

/** Show the number of the repair in use, and hide the other's. */
function showRepair() {
  for (const [repair, id] of Object.entries(KNOBS)) $(`${id}-field`).hidden = repair !== repairInUse();
}

/** What the server takes where nothing is asked, as far as a run that it made tells. */
function learnDefaults(config, asked) {
  if (asked.repair === undefined) serverRepair = { Correct: "correct", Rewrite: "rewrite" }[config.repair?.kind] ?? null;
  const values = { delta: config.repair?.delta, threshold: config.threshold, lookahead: config.lookahead };
  for (const [id, value] of Object.entries(values)) {
    if (asked[id] === undefined && typeof value === "number") $(id).placeholder = value;
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
  const { repair, delta, threshold, lookahead, ...others } = settings; // these are of the pair only
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
