// What a trace says: figures, the answer, a step cut into pieces, and whether data is a trace at all.

const author = (step) => (step.author === "base" && !step.corrections.length ? "base" : "draft");

/** What became of a step's draft; of a step without one, how the base model came to write it. */
function fate(step) {
  const detail = step.undrafted_detail ? `: ${step.undrafted_detail}` : "";
  const why = step.undrafted ? `: ${UNDRAFTED[step.undrafted]}${detail}` : "";
  if (author(step) === "base") return (step.rejected !== null ? "rewrote it" : why ? "wrote it alone" : "wrote it") + why;
  const corrected = step.corrections.length;
  const parts = corrected ? [`${corrected} corrected`] : [];
  if (step.author === "both" && (why || !corrected)) parts.push(`then base${why}`);
  return parts.join(", ") || "kept";
}

function scored(step) {
  return step.score === null ? "" : `${step.author === "base" ? "the draft's score:" : "score"} ${short(step.score)}`;
}

const tokens = (trace) => sum(trace.steps.map((step) => step.tokens)) + (trace.answer_call?.completion_tokens ?? 0);

/** Like `Trace.wasted_tokens`. */
function thrownAway(trace) {
  const generated = (calls, purpose) =>
    sum(calls.filter((call) => call.purpose === purpose).map((call) => call.completion_tokens));
  const calls = [...trace.steps.flatMap((step) => step.calls), ...trace.wasted];
  const kept = sum(trace.steps.map((step) => step.draft_tokens));
  return Math.max(generated(calls, "draft") - kept, 0) + generated(trace.wasted, "rewrite");
}

/**
 * The drafts that were kept, whole or up to a correction: of each its step and how many of its tokens are there.
 * A draft that was cut was aborted, so its step does not have the request. Its prompt tells which it was: it is as
 * long as the chain of thought was where the draft began. The same in Python: `display/bars.py`.
 */
function keptDrafts(trace) {
  const kept = new Map();
  const drafts = (calls) => calls.filter((call) => call.purpose === "draft").sort((a, b) => a.start - b.start);
  const wasted = drafts(trace.wasted);
  const first = drafts([...trace.steps.flatMap((step) => step.calls), ...wasted])[0];
  if (!first) return kept;
  const before = trace.steps.filter((step) => step.calls[0]?.start < first.start);
  let length = first.prompt_tokens - sum(before.map((step) => step.tokens)); // of the prompt and the chain of thought
  trace.steps.forEach((step, i) => {
    const own = drafts(step.calls);
    const cut = step.corrections.map((correction) => correction.kept);
    const keep = (tokens, among) => {
      if (tokens <= 0 || !among.length) return;
      const off = (call) => Math.abs(call.prompt_tokens - length);
      const call = among.reduce((best, later) => (off(later) <= off(best) ? later : best));
      kept.set(call, { step: i + 1, tokens: (kept.get(call)?.tokens ?? 0) + tokens });
      length = call.prompt_tokens + tokens;
    };
    for (const tokens of cut) {
      keep(tokens, drafts([...own, ...wasted]));
      length += 1; // the base model's token
    }
    keep(step.draft_tokens - sum(cut), own.length ? own : wasted);
    length += step.tokens - step.draft_tokens - cut.length;
  });
  return kept;
}

/** Every request of a run, with the step it was for, the share of its result that was used, and why the rest was not. */
function requestsOf(trace) {
  const drafts = keptDrafts(trace);
  const request = (call, step, lost) => {
    const draft = drafts.get(call);
    const share = Math.min((draft?.tokens ?? 0) / (call.completion_tokens || 1), 1);
    return { ...call, step: draft?.step ?? step, kept: call.purpose === "draft" ? share : Number(!lost), lost: lost || "wasted" };
  };
  const used = trace.steps.flatMap((step, i) =>
    step.calls.map((call) => request(call, i + 1, call.purpose === "draft" && step.author === "base" ? "rejected" : "")),
  );
  if (trace.answer_call) used.push(request(trace.answer_call, undefined, ""));
  return [...used, ...trace.wasted.map((call) => request(call, undefined, "wasted"))];
}

const is = (kind, ...values) => values.every((value) => typeof value === kind);

function isTrace(data) {
  const isCall = (call) => is("number", call?.start, call.seconds, call.prompt_tokens, call.completion_tokens) && ["draft", "base"].includes(call.side);
  const isCorrection = (c) => Number.isInteger(c?.at) && c.at >= 0 && is("string", c.drafted, c.text) && is("number", c.regret ?? 0, c.kept);
  const isRead = (token) => token?.length === 5 && Number.isInteger(token[0]) && is("string", token[1], token[3]) && is("number", token[4] ?? 0);
  const isStep = (step) => is("string", step?.text, step.rejected ?? "", step.undrafted_detail) && is("number", step.tokens, step.draft_tokens, step.score ?? 0)
    && ["draft", "base", "both"].includes(step.author) && (step.undrafted === null || Object.hasOwn(UNDRAFTED, step.undrafted)) && step.calls?.every?.(isCall)
    && step.corrections?.every?.(isCorrection) && step.reading?.every?.(isRead);
  return data?.version === VERSION && is("string", data.question, data.answer) && is("number", data.seconds) && is("object", data.config ?? 0)
    && ["specreason", "base", "draft"].includes(data.mode) && data.steps?.every?.(isStep) && data.wasted?.every?.(isCall)
    && (data.answer_call === null || isCall(data.answer_call));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The traces of a file: one, or one per line. Throws an error that names the line that is not a trace. */
function readTraces(text, name) {
  const whole = parse(text);
  const lines = whole === undefined ? text.split("\n") : [text];
  const traces = [];
  lines.forEach((line, i) => {
    if (!line.trim()) return;
    const data = whole ?? parse(line);
    const place = lines.length > 1 ? `, line ${i + 1},` : "";
    if (is("number", data?.version) && data.version !== VERSION) {
      throw new Error(`${name}${place} has version ${data.version}; this page reads version ${VERSION}.`);
    }
    if (!isTrace(data)) throw new Error(`${name}${place} is not a trace of specreason-sgl.`);
    traces.push(data);
  });
  if (!traces.length) throw new Error(`${name} is empty: it has no trace.`);
  return traces;
}

/** The answer without what stands around it: what is in the last box, or all of it. */
function plainAnswer(answer) {
  const start = answer.lastIndexOf("\\boxed");
  const open = answer.indexOf("{", start);
  if (start < 0 || open < 0) return answer.replace(/^(?:\W*final answer\W*:)\s*/i, "").trim();
  let depth = 0;
  for (let i = open; i < answer.length; i++) {
    depth += { "{": 1, "}": -1 }[answer[i]] ?? 0;
    if (!depth) return answer.slice(open + 1, i).trim();
  }
  return answer.trim();
}

/** Whether two answers are the same but for units' braces, commas, spaces and currency signs. */
function isSameAnswer(a, b) {
  const bare = (text) => plainAnswer(text).replace(/\\(?:text|mathrm)\s*|\\[,;:! ]|\\?[$%]|[{}\s,]|\.$/g, "").toLowerCase();
  return bare(a) !== "" && bare(a) === bare(b);
}

/** In one line: how much faster than the base model alone, and how much of the draft was changed. */
function headline(trace, alone) {
  const parts = [];
  if (alone && trace.seconds && alone.seconds) {
    const ratio = alone.seconds / trace.seconds;
    const [factor, word] = ratio >= 1 ? [ratio, "faster"] : [1 / ratio, "slower"];
    const isEven = factor.toFixed(1) === "1.0";
    parts.push(isEven ? "As fast as the base model alone" : `${factor.toFixed(1)} times ${word} than the base model alone`);
  }
  const corrections = sum(trace.steps.map((step) => step.corrections.length));
  const rewritten = trace.steps.filter((step) => step.rejected !== null).length;
  if (corrections) parts.push(`${plural(corrections, "token")} of ${sum(trace.steps.map((step) => step.tokens))} corrected`);
  if (rewritten) parts.push(`${plural(rewritten, "step")} of ${trace.steps.length} rewritten`);
  if (!corrections && !rewritten && trace.steps.length) parts.push("nothing corrected");
  const line = parts.join("; ");
  return line && `${line[0].toUpperCase()}${line.slice(1)}.`;
}

const nats = (regret) => `regret ${(regret ?? Infinity).toFixed(2)} nats`; // JSON has no infinity

/**
 * A step's text in pieces, with each replaced token before its correction. Positions count characters, not UTF-16 units.
 * `kind` is kept, del (a drafted token, not in the text) or ins (the base model's).
 */
function pieces(step) {
  const letters = Array.from(step.text);
  const tokens = tokenOfEachLetter(step, letters.length);
  const parts = [];
  let position = 0;
  for (const { at, drafted, text, regret } of step.corrections) {
    parts.push(...keptPieces(letters, tokens, position, at));
    const start = Math.max(position, at);
    position = Math.max(start, at + Array.from(text).length);
    const worth = regret ?? Infinity;
    parts.push({ kind: "del", text: drafted, start, end: start, regret: worth, title: `drafted; ${nats(regret)}` });
    const put = letters.slice(start, position).join("");
    parts.push({ kind: "ins", text: put, start, end: position, regret: worth, title: "the base model's token" });
  }
  return [...parts, ...keptPieces(letters, tokens, position, letters.length)];
}

/** As the base model read them; of a letter that several tokens make up, the one with the highest regret. */
function tokenOfEachLetter(step, count) {
  const tokens = Array(count).fill(null);
  for (const [at, text, , first, regret] of step.reading) {
    const token = { first, regret: regret ?? Infinity };
    const end = Math.min(at + Math.max(Array.from(text).length, 1), count);
    for (let i = Math.max(at, 0); i < end; i++) if (!tokens[i] || token.regret > tokens[i].regret) tokens[i] = token;
  }
  return tokens;
}

function keptPieces(letters, tokens, start, end) {
  const parts = [];
  for (let from = start, to; from < end; from = to) {
    const token = tokens[from];
    const isPlain = (i) => !tokens[i]?.regret;
    for (to = from + 1; to < end && (tokens[to] === token || (isPlain(from) && isPlain(to))); ) to++;
    const piece = { kind: "kept", text: letters.slice(from, to).join(""), start: from, end: to, regret: token?.regret ?? 0 };
    if (piece.regret) piece.title = `${nats(token.regret)}; the base model's first choice: ${JSON.stringify(token.first)}`;
    parts.push(piece);
  }
  return parts;
}
