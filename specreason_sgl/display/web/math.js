// Formulas, by KaTeX. One that a correction cuts across, or that KaTeX refuses, stays as it was written.

const BOXED = String.raw`\\boxed\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}`;
const FORMULA = new RegExp(
  [String.raw`\\\[([\s\S]+?)\\\]`, String.raw`\\\(([\s\S]+?)\\\)`, String.raw`\$\$([\s\S]+?)\$\$`,
    String.raw`\$(?=\S)([^$\n]*?[\\^_={][^$\n]*?)(?<=\S)\$(?!\d)`, `(${BOXED})`].join("|"),
  "g",
);
const SIMPLE = /^[A-Za-z0-9 .,+\-*/=<>()!?:;]+$/;

/** The formulas of a text: where they are in characters, and what is inside of their marks. */
function formulas(text) {
  return [...text.matchAll(FORMULA)].map((match) => {
    const inside = match.slice(1).find((group) => group !== undefined);
    const mark = match[0].indexOf(inside); // length of the opening mark; the closing one is as long
    const start = Array.from(text.slice(0, match.index)).length;
    const end = start + Array.from(match[0]).length;
    return { start, end, inside: [start + mark, end - mark], display: match[0].startsWith("\\[") || match[0].startsWith("$$") };
  });
}

/** The source of a formula with its corrections marked, or null where they cannot be. */
function marked(formula, parts) {
  const [from, to] = formula.inside;
  let source = "";
  for (const part of parts) {
    if (part.kind === "kept") {
      const letters = Array.from(part.text);
      source += letters.slice(Math.max(from - part.start, 0), Math.max(to - part.start, 0)).join("");
      continue;
    }
    if (part.start < from || part.end > to || !SIMPLE.test(part.text) || /\\[A-Za-z]*$/.test(source)) return null;
    source += `\\htmlClass{${part.kind === "del" ? "struck" : "fixed"}}{${part.text}}`;
  }
  return source;
}

function formulaNode(source, display) {
  const node = element(display ? "div" : "span", "math");
  try {
    katex.render(source, node, {
      displayMode: display,
      output: "html",
      strict: "ignore",
      maxSize: 20,
      trust: (context) => context.command === "\\htmlClass" && ["struck", "fixed"].includes(context.class),
    });
  } catch {
    return null;
  }
  node.role = "math";
  node.ariaLabel = source.replace(/\\htmlClass\{struck\}\{[^{}]*\}|\\htmlClass\{fixed\}/g, "");
  return node;
}

/** Copying gives the text as it was written: formulas by their source, without struck tokens. */
document.addEventListener("copy", (event) => {
  const selection = getSelection();
  if (!selection.rangeCount) return;
  const copied = element("div", "", selection.getRangeAt(0).cloneContents());
  if (!copied.querySelector(".math")) return;
  for (const node of copied.querySelectorAll(".math")) node.replaceWith(node.dataset.source);
  for (const node of copied.querySelectorAll("del, .end, .meta")) node.remove();
  const texts = [...copied.querySelectorAll(".text")];
  event.clipboardData.setData("text/plain", texts.length ? texts.map((node) => node.textContent).join("\n\n") : copied.textContent);
  event.preventDefault();
});
