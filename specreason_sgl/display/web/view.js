// The run that is shown.

const embedded = JSON.parse($("traces").textContent);
const isExample = $("traces").dataset.kind === "example";
let runs = []; // traces that can be shown
let shown = null; // a trace, or what there is of one while it is being made
const origins = new WeakMap(); // of a trace that this server made: {question, pair, settings}
let serverRepair = null; // the server's default repair, once a run has told it
let going = null; // the AbortController of the request in progress

const say = (text) => ($("status").textContent = text);
const fail = (text) => ($("error").textContent = text);

/** Change the page's height, and stay at its end if it was there. */
function following(change) {
  const root = document.documentElement;
  const atEnd = scrollY > 0 && root.scrollHeight - innerHeight - scrollY < 60;
  change();
  if (atEnd) scrollTo(0, root.scrollHeight);
}

function show(trace, stepsAreThere = false) {
  shown = trace;
  $("run").hidden = false;
  $("samples").hidden = true;
  $("asked").textContent = trace.question;
  const models = [["draft", trace.draft_model], ["base", trace.base_model]].filter(([, name]) => name);
  const folder = (name) => (name.startsWith("/") ? name.split("/").pop().replace("--", "/") : name);
  $("models").textContent = trace.model ?? models.map(([side, name]) => `${side}: ${folder(name)}`).join("   ");
  $("note").hidden = !isExample || !embedded.includes(trace);
  if (!stepsAreThere) {
    shading = false;
    showSteps();
  }
  showAnswer();
  $("answers").ariaBusy = Boolean(trace.partial); // it is read aloud once, when all of it is there
  if (!trace.partial) say(`Done: ${STOPS[trace.stop] ?? trace.stop}`);
  $("save").disabled = Boolean(trace.partial);
  $("settings").hidden = Boolean(trace.partial);
  $("settings").lastChild.textContent = JSON.stringify(trace.config, null, 2);
  showSwitches();
  if (origins.has(trace) && trace.mode === "specreason") learnDefaults(trace.config, origins.get(trace).settings);
  showRuns();
  showTotals();
  $("alone-status").textContent = "";
  showComparison(trace, partner(trace));
  drawTimeline();
}

/** The answer: large where it is short, with the whole text below where that says more. */
function showAnswer() {
  const { answer, partial } = shown;
  const plain = partial ? "" : plainAnswer(answer);
  const isLong = plain.length > 40;
  const formula = /[\\^_]/.test(plain) && !isLong ? formulaNode(plain, false) : null;
  $("plain").className = isLong ? "long" : "";
  $("plain").replaceChildren(...(isLong ? textNodes(plain) : [formula ?? plain]));
  const bare = answer.replace(/\\[[\]()]|\$|\\boxed/g, "").replace(/^\s*\{|\}[\s.]*$/g, "").trim();
  $("answer").replaceChildren(...(partial ? [answer] : textNodes(answer)));
  $("answer").hidden = !partial && (bare === plain || isLong);
  $("answer").className = partial ? "text" : "text quiet";
}

function showRuns() {
  const cut = (text) => (text.length > 70 ? `${text.slice(0, 68)}…` : text);
  const title = (trace, i) => `${i + 1}: ${nameOf(trace)}, ${inSeconds(trace.seconds)}: ${cut(trace.question)}`;
  $("runs").replaceChildren(...runs.map((trace, i) => new Option(title(trace, i), i)));
  $("runs").selectedIndex = runs.indexOf(shown);
  $("chooser").hidden = runs.every((run) => run === shown);
}

function showTotals() {
  const { steps, seconds } = shown;
  const all = requestsOf(shown);
  const by = (side) => sum(all.filter((call) => call.side === side).map((call) => call.completion_tokens));
  const tile = (title, value, note = "") => {
    const amount = element("dd", "", String(value), element("small", "", note && ` ${note}`));
    return element("div", "", element("dt", "", title), amount);
  };
  const rate = shown.partial ? "" : `${(tokens(shown) / (seconds || 1)).toFixed(1)} tok/s`;
  const tiles = [tile("seconds", seconds.toFixed(1), rate)];
  if (shown.mode === "specreason") {
    const kept = steps.filter((step) => step.author === "draft").length;
    const corrected = steps.filter((step) => step.corrections.length).length;
    const corrections = sum(steps.map((step) => step.corrections.length));
    const rewritten = steps.filter((step) => step.rejected !== null).length;
    const counts = [tile("steps kept", kept, `of ${steps.length}`)];
    if (corrected) counts.push(tile("corrected", corrected, plural(corrections, "token")));
    if (rewritten) counts.push(tile("rewritten", rewritten));
    tiles.unshift(...counts);
    tiles.push(tile("draft tokens", by("draft")), tile("base tokens", by("base")));
    tiles.push(tile("thrown away", thrownAway(shown), "tokens"));
  } else if (!shown.partial) {
    tiles.unshift(tile("steps", steps.length));
    tiles.push(tile(`${shown.mode} tokens`, by(shown.mode)));
  }
  $("totals").replaceChildren(...tiles);
}

