// The chain of thought: finished steps, and the one that is being written.

let shading = false; // whether texts are shown token by token, shaded by regret

function nodeOf(piece) {
  const { kind, text, regret, title } = piece;
  if (kind === "kept" && !regret) return text;
  const tag = kind === "kept" ? "span" : kind;
  const shade = Object.values(SHADES).findIndex((most) => regret <= most) + 1;
  const name = kind === "kept" ? `regret-${shade}` : kind === "ins" && !text ? "end" : "";
  const shown = kind === "del" ? clear(text) || END : text || END;
  const node = titled(element(tag, name, shown), title);
  node.dataset.regret = regret;
  return node;
}

/** Cut pieces in two at a position; a replaced token goes with its correction. */
function cut(parts, at) {
  const left = [], right = [];
  for (const part of parts) {
    if (part.start >= at) right.push(part);
    else if (part.end <= at) left.push(part);
    else {
      const letters = Array.from(part.text);
      left.push({ ...part, text: letters.slice(0, at - part.start).join(""), end: at });
      right.push({ ...part, text: letters.slice(at - part.start).join(""), start: at });
    }
  }
  return [left, right];
}

/** The nodes of a step's text: formulas set, corrections in place. */
function body(step) {
  let rest = pieces(step);
  const nodes = [];
  for (const formula of shading ? [] : formulas(step.text)) {
    const [before, after] = cut(rest, formula.start);
    const [inside, behind] = cut(after, formula.end);
    const source = marked(formula, inside);
    const node = source === null ? null : formulaNode(source, formula.display);
    rest = behind;
    if (!node) {
      nodes.push(...[...before, ...inside].map(nodeOf));
      continue;
    }
    let written = inside.filter((part) => part.kind !== "del").map((part) => part.text).join("");
    if (formula.display && !before.at(-1)?.text.trim() && before.at(-2)?.text.endsWith("\n")) written = before.pop().text + written;
    if (formula.display) written = takeLine(before.at(-1), /\n[ \t]*$/) + written + takeLine(behind[0], /^[ \t]*\n/);
    node.dataset.source = written;
    nodes.push(...before.map(nodeOf), node);
  }
  return [...nodes, ...rest.map(nodeOf)];
}

/** Take a line break out of a piece: a formula on lines of its own brings its own. */
function takeLine(part, where) {
  const match = part?.kind !== "del" && part?.text.match(where);
  if (!match) return "";
  part.text = part.text.replace(where, "");
  if (match.index) part.end -= match[0].length;
  else part.start += match[0].length;
  return match[0];
}

/** A text without a step, with its formulas set. */
const textNodes = (text) => body({ text, corrections: [], reading: [] });

function addStep(step, number) {
  const badge = element("span", `by ${author(step)}`, author(step));
  const meta = element("div", "meta", element("span", "number", String(number)), badge, fate(step));
  if (step.score !== null) meta.append(element("span", "score", scored(step), ...distribution(step.probabilities ?? {})));
  if (step.tokens) meta.append(element("span", "", plural(step.tokens, "token")));
  const item = element("li", `step ${step.author}`, meta, element("div", "text", ...body(step)));
  if (step.rejected !== null) {
    const summary = element("summary", "", "Rejected draft");
    const rejected = element("details", "", summary, element("del", "text", step.rejected || "(empty)"));
    rejected.open = $("reveal").checked;
    item.append(rejected);
    if (shown.partial && !rejected.open) foldAway(item, step.rejected);
  }
  item.addEventListener("pointerenter", () => pick(number));
  item.addEventListener("pointerleave", () => pick(null));
  following(() => $("steps").append(item));
  showSwitches();
}

/** Show a rejected draft struck out for a moment, then fold it into the step. */
function foldAway(item, text) {
  if (isCalm()) return;
  const draft = element("div", "fold rejected", text);
  draft.ariaHidden = "true";
  item.append(draft);
  requestAnimationFrame(() => {
    const height = `${draft.offsetHeight}px`;
    const frames = [{ height, opacity: 1 }, { height, opacity: 1, offset: 0.6 }, { height: 0, opacity: 0 }];
    draft.animate(frames, { duration: 1400, easing: "ease-in-out" }).finished.finally(() => draft.remove());
  });
}

function showSteps() {
  $("steps").replaceChildren();
  shown.steps.forEach((step, i) => addStep(step, i + 1));
}

// What is being written: kept at once, drawn once a frame.
const live = { node: null, draft: "", step: null, drawn: null, due: false };

function showLive(news) {
  live.draft = news.draft;
  if (news.open_step !== undefined) live.step = news.open_step;
  if (live.due) return;
  live.due = true;
  requestAnimationFrame(() => {
    live.due = false;
    following(drawLive);
  });
}

function endLive() {
  live.node?.remove();
  Object.assign(live, { node: null, draft: "", step: null, drawn: null });
}

function drawLive() {
  if (!shown?.partial || (!live.draft.trim() && !live.step)) return live.node?.remove();
  if (!live.node) {
    const meta = element("div", "meta", element("span", "number"), element("span"), "writing");
    live.node = element("li", "", meta, element("div", "text", element("span"), element("span", "ahead")));
  }
  const writer = live.step ? author(live.step) : "draft";
  live.node.className = `step live ${writer}`;
  const [number, badge] = live.node.querySelectorAll(".meta span");
  number.textContent = shown.steps.length + 1;
  [badge.className, badge.textContent] = [`by ${writer}`, writer];
  const [read, ahead] = live.node.querySelectorAll(".text > span");
  if (live.step !== live.drawn) {
    const before = live.drawn?.corrections.length ?? 0;
    read.replaceChildren(...(live.step ? body(live.step) : []));
    [...read.querySelectorAll("ins")].slice(before).forEach((node) => node.classList.add("new"));
    live.drawn = live.step;
  }
  ahead.textContent = live.step ? live.draft : live.draft.trimStart();
  if (!live.node.isConnected) $("steps").append(live.node);
}

/** Offer what this run has something to show for. */
function showSwitches() {
  $("reveal-field").hidden = shown.steps.every((step) => step.rejected === null);
  $("regret").hidden = shown.steps.every((step) => !step.reading.length);
  const on = shading && !$("regret").hidden;
  $("regret").ariaPressed = String(shading);
  $("steps").classList.toggle("shaded", on);
  $("shading").hidden = !on;
}

function setShading(on) {
  shading = on;
  showSteps();
  const delta = shown.config.repair?.delta;
  $("what-if").value = delta ?? 3;
  showWhatIf();
}

/** Recolour what was judged as another `delta` would have it; that of numbers stays. */
function showWhatIf() {
  const delta = Number($("what-if").value);
  $("delta-said").textContent = `${delta.toFixed(1)} nats`;
  const strict = shown.config.repair?.numeric_delta ?? delta;
  const counts = { stay: 0, more: 0, fewer: 0 };
  for (const node of $("steps").querySelectorAll("[data-regret]")) {
    const isOver = Number(node.dataset.regret) > (NUMERIC.test(node.textContent) ? strict : delta);
    const isKept = node.tagName === "SPAN";
    node.classList.toggle("over", isKept && isOver);
    node.classList.toggle("under", !isKept && !isOver);
    if (isKept) counts.more += isOver;
    else if (node.tagName === "DEL") counts[isOver ? "stay" : "fewer"]++;
  }
  const { stay, more, fewer } = counts;
  $("what-if-says").textContent =
    `${plural(stay, "correction")} would stay, ${fewer} would not be made, ${plural(more, "more token")} would be corrected. ` +
    "After a token that changes, the text would go on in another way.";
}

/** How probable each score was, as a small bar chart, if there is something to see. */
function distribution(probabilities) {
  const scores = Object.entries(probabilities);
  if (scores.length < 2 || scores.length > 12) return [];
  const said = scores.filter(([, p]) => p >= 0.005).map(([token, p]) => `${token}: ${Math.round(p * 100)} %`).join(", ");
  const width = scores.length * 5;
  const picture = svg("svg", { role: "img", "aria-label": `Probabilities: ${said}`, width }, svg("title", {}, said));
  picture.append(svg("line", { x1: 0, x2: width, y1: 13.5, y2: 13.5 }));
  scores.forEach(([, p], i) => picture.append(svg("rect", { x: i * 5 + 0.5, y: 13 - 13 * p, width: 4, height: 13 * p })));
  return [picture];
}

