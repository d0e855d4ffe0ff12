// The replay race: two traces side by side at their recorded pace.
//
// A base model's reads are recorded, so a drafted token is settled when the read that it was in had ended; between two
// reads tokens are spaced evenly. So is the text of a request that wrote it all at once.

const race = { lanes: [], time: 0, playing: false, last: 0 };
const ended = (call) => call.start + call.seconds;
const words = (text) => text.match(/\s*\S+\s*$|\s*\S+|\s+/g) ?? [];

/** What happens in a run, by time: {time, step, and `show` (text, kind, tokens), `settle` or `finish`}. */
function score(trace) {
  const events = [];
  const spread = (step, text, kind, from, to, count = 0) => {
    const parts = words(text), tokens = count / parts.length;
    parts.forEach((part, i) => events.push({ time: from + ((to - from) * (i + 1)) / parts.length, step, show: part, kind, tokens }));
  };
  if (trace.mode !== "specreason") scoreAlone(trace, events);
  else {
    let time = 0, prompt = null;
    trace.steps.forEach((step, i) => {
      const calls = [...step.calls].sort((a, b) => a.start - b.start);
      const end = Math.max(time, ...calls.map(ended));
      const reads = calls.filter((call) => call.purpose === "read");
      const wrote = calls.findLast((call) => call.purpose === "rewrite");
      const drafted = calls.find((call) => call.purpose === "draft");
      if (reads.length && step.reading.length) {
        prompt ??= reads.at(-1).prompt_tokens - step.reading.length;
        scoreRead(step, i, reads, prompt, time, end, events);
        prompt += step.reading.length;
      } else {
        if (step.rejected !== null && drafted) spread(i, step.rejected, "draft", drafted.start, ended(drafted));
        if (step.rejected !== null && wrote) events.push({ time: wrote.start, step: i, settle: "rejected" });
        const writer = wrote ?? drafted;
        spread(i, step.text, wrote ? "base" : "draft", writer ? writer.start : time, writer ? ended(writer) : end, step.tokens);
      }
      events.push({ time: end, step: i, finish: step });
      time = end;
    });
  }
  events.sort((a, b) => a.time - b.time);
  return events;
}

function scoreAlone(trace, events) {
  const calls = trace.steps.flatMap((step) => step.calls);
  const from = Math.min(...calls.map((call) => call.start), trace.seconds), to = Math.max(...calls.map(ended), 0);
  const parts = trace.steps.flatMap((step, i) => words(step.text).map((part) => ({ step: i, show: part, kind: "alone" })));
  const each = sum(trace.steps.map((step) => step.tokens)) / parts.length;
  parts.forEach((part, i) => events.push({ ...part, tokens: each, time: from + ((to - from) * (i + 1)) / parts.length }));
  trace.steps.forEach((step, i) => {
    const last = events.findLast((event) => event.step === i);
    events.push({ time: last?.time ?? from, step: i, finish: step });
  });
}

/** A step that the base model read in parts: each part is settled when its read has ended. */
function scoreRead(step, index, reads, prompt, from, end, events) {
  const count = step.reading.length;
  const corrected = step.corrections.map(({ at }) => step.reading.findIndex((token) => token[0] >= at));
  const tokenAt = (position) => Math.max(step.reading.findLastIndex((token) => token[0] <= position), 0);
  const anchors = [{ time: from, token: 0 }];
  for (const read of reads) {
    const last = anchors.at(-1).token;
    const reach = Math.min(Math.max(read.prompt_tokens - prompt, last), count);
    const cut = corrected.find((token) => token >= last && token < reach);
    anchors.push({ time: ended(read), token: cut === undefined ? reach : cut + 1 });
  }
  anchors.push({ time: end, token: count });
  for (const piece of pieces(step)) {
    for (const part of piece.kind === "kept" ? byToken(step, piece) : [piece]) {
      const token = tokenAt(part.start);
      const right = Math.max(anchors.findIndex((anchor) => anchor.token > token), 1);
      const a = anchors[right - 1], b = anchors[right];
      const share = (token - a.token + 1) / (b.token - a.token + 1);
      const time = part.kind === "ins" ? b.time : a.time + (b.time - a.time) * share;
      events.push({ time, step: index, show: part.text, kind: part.kind === "kept" ? "draft" : part.kind, tokens: part.kind === "del" ? 0 : 1 });
    }
  }
  for (const anchor of anchors.slice(1)) events.push({ time: anchor.time, step: index, settle: "read" });
}

/** A kept piece, cut where the base model's tokens begin. */
function byToken(step, piece) {
  const starts = step.reading.map((token) => token[0]).filter((at) => at > piece.start && at < piece.end);
  let rest = [piece];
  const parts = [];
  for (const at of new Set(starts)) {
    const [left, right] = cut(rest, at);
    parts.push(...left);
    rest = right;
  }
  return [...parts, ...rest];
}

class Lane {
  constructor(trace) {
    this.trace = trace;
    this.events = score(trace);
    this.clock = element("output");
    this.flow = element("div", "flow");
    this.flow.ariaHidden = "true"; // the steps below have the text
    this.end = element("div", "end");
    const title = element("header", "", element("b", "", nameOf(trace)), this.clock);
    this.node = element("section", `lane ${trace.mode === "base" ? "base" : ""}`, title, this.flow, this.end);
    this.clear();
  }

  clear() {
    this.next = this.count = 0;
    this.blocks = [];
    this.flow.replaceChildren();
    this.end.replaceChildren();
  }

  /** Draw the run as it was at a time. */
  draw(time) {
    if (time < this.drawn) this.clear();
    this.drawn = time;
    const before = this.next;
    while (this.next < this.events.length && this.events[this.next].time <= time) this.play(this.events[this.next++]);
    if (this.next !== before) this.flow.scrollTop = this.flow.scrollHeight;
    const at = Math.min(time, this.trace.seconds);
    this.clock.textContent = `${plural(Math.round(this.count), "token")} · ${at.toFixed(1)} s`;
    const isDone = time >= this.trace.seconds;
    if (isDone && !this.end.hasChildNodes()) {
      this.end.append(element("b", "", plainAnswer(this.trace.answer) || "no answer"), `after ${inSeconds(this.trace.seconds)}`);
    } else if (!isDone) this.end.replaceChildren();
  }

  play({ step, show, kind, tokens, settle, finish }) {
    const block = (this.blocks[step] ??= this.flow.appendChild(element("p")));
    if (show !== undefined) {
      const tag = { ins: "ins", del: "span" }[kind] ?? "span";
      const name = { draft: "unread", del: "unread wrong", ins: "new" }[kind] ?? "";
      block.append(element(tag, name, kind === "del" ? clear(show) || END : show || END));
      this.count += tokens;
    } else if (settle) {
      for (const node of block.querySelectorAll(".unread")) {
        if (node.classList.contains("wrong")) node.replaceWith(element("del", "", node.textContent));
        else node.className = settle === "rejected" ? "rejected" : "";
      }
    } else block.replaceChildren(...body(finish));
  }
}

const nameOf = (trace) => (trace.mode === "specreason" ? "specreason" : `${trace.mode} alone`);

/** The run to compare another with: of the same question, the base model alone first. */
function partner(trace) {
  const wanted = { specreason: "base", base: "specreason" }[trace.mode];
  return runs.findLast((run) => run.mode === wanted && run.question === trace.question);
}

function showComparison(trace, other) {
  stopRace();
  const [ours, alone] = trace.mode === "base" ? [other, trace] : [trace, other];
  const isAlone = alone?.mode === "base" && alone.question === trace.question;
  const rivals = runs.filter((run) => run !== trace && run.question === trace.question);
  const canRun = origins.has(trace) && trace.mode === "specreason" && !(partner(trace) && !partner(trace).partial);
  $("alone").hidden = !canRun;
  $("rival-field").hidden = rivals.length < 2 || trace.partial;
  $("rival").replaceChildren(...rivals.map((run) => new Option(`${runs.indexOf(run) + 1}: ${nameOf(run)}`, runs.indexOf(run))));
  if (other) $("rival").value = runs.indexOf(other);
  $("compare").hidden = trace.partial || ((!ours || !alone) && $("alone").hidden && $("rival-field").hidden);
  $("race").replaceChildren();
  $("controls").hidden = !ours || !alone || Boolean(alone.partial);
  const whole = isAlone && !alone.partial ? alone : null;
  $("headline").textContent = trace.partial || !ours || ours.mode !== "specreason" ? "" : headline(ours, whole);
  showAgreement(trace, trace.mode === "base" ? ours : whole);
  if (!ours || !alone) return;
  const longest = Math.max(ours.seconds, alone.seconds);
  race.bars = [ours, alone].map((run, i) => {
    const bar = element("i");
    const time = element("b", "", inSeconds(run.seconds));
    const row = element("div", `race ${i ? "base" : ""}`, element("span", "", nameOf(run)), bar, time);
    if (!run.partial) row.append(element("p", "quiet text", `${plural(tokens(run), "token")}, answer: ${plainAnswer(run.answer) || "none"}`));
    $("race").append(row);
    const draw = (seconds) => {
      bar.style.width = `${(100 * Math.min(seconds, run.seconds)) / (longest || 1)}%`;
      time.textContent = inSeconds(Math.min(seconds, run.seconds));
    };
    draw(run.seconds);
    return draw;
  });
  race.traces = [ours, alone];
  $("clock").max = longest;
  $("clock").value = longest;
}

function showAgreement(trace, other) {
  $("agreement").replaceChildren();
  if (trace.partial || !other || !trace.answer) return;
  const who = other.mode === "base" ? "the base model alone" : "specreason";
  const tick = element("span", "tick", "✓");
  if (isSameAnswer(trace.answer, other.answer)) $("agreement").append(tick, ` ${who} answers the same`);
  else $("agreement").append(`${who} answers ${plainAnswer(other.answer) || "nothing"}`);
}

// ---- the clock

function stopRace() {
  race.playing = false;
  race.lanes = [];
  race.time = 0;
  $("lanes").hidden = true;
  $("lanes").replaceChildren();
  $("play").textContent = "Replay";
}

/** Open the lanes, if they are not, and show the race at a time. */
function seek(time) {
  if (!race.lanes.length) {
    race.lanes = race.traces.map((trace) => new Lane(trace));
    $("lanes").replaceChildren(...race.lanes.map((lane) => lane.node));
    $("lanes").hidden = false;
  }
  race.time = time;
  $("clock").value = time;
  for (const lane of race.lanes) lane.draw(time);
  for (const draw of race.bars) draw(time);
}

function setPlaying(on) {
  race.playing = on;
  $("play").textContent = on ? "Pause" : race.time > 0 && race.time < Number($("clock").max) ? "Go on" : "Replay";
  if (!on) return;
  race.last = performance.now();
  requestAnimationFrame(frame);
}

function frame(now) {
  if (!race.playing) return;
  const speed = Number($("speed").value);
  seek(Math.min(race.time + ((now - race.last) / 1000) * speed, Number($("clock").max)));
  race.last = now;
  if (race.time >= Number($("clock").max)) setPlaying(false);
  else requestAnimationFrame(frame);
}

$("play").addEventListener("click", () => {
  if (!race.playing && race.time >= Number($("clock").max)) seek(0);
  setPlaying(!race.playing);
});
$("clock").addEventListener("input", () => {
  setPlaying(false);
  seek(Number($("clock").value));
  setPlaying(false);
});
$("speed").addEventListener("input", () => ($("speed-said").textContent = `${$("speed").value}×`));
$("rival").addEventListener("change", () => showComparison(shown, runs[$("rival").value]));
