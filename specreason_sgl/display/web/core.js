"use strict";

// Words and small tools that every other file uses.

const VERSION = 3; // of a trace
const PURPOSES = ["draft", "score", "read", "rewrite", "reason", "answer"];
const LOST = { rejected: "rejected", wasted: "cut off or not needed" };
const END = "⏎"; // stands for the end of a step, and for a line break in a drafted token
const SHADES = { "up to 1": 1, "to 2": 2, "to 4": 4, "above 4": Infinity }; // upper bounds of regret, nats
const STOPS = {
  answer: "the chain of thought has it",
  end: "the thinking ended",
  repetition: "a step repeated the one before",
  budget: "the token budget is used up",
  context: "the model's context is full",
  failed: "none: the run failed",
};
const UNDRAFTED = {
  rejections: "a pause after rejections",
  failure: "the draft runtime failed",
  breaker: "a pause after the draft runtime failed",
  context: "the draft model's context is full",
  load: "the base model alone is faster at this load, or on trial",
};

const $ = (id) => document.getElementById(id);

// Elements. Text of a model only ever becomes a text node.
function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const inSeconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)} s`;
const short = (number) => (Number.isInteger(number) ? String(number) : String(Number(number.toPrecision(4))));
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const clear = (text) => text.replaceAll("\n", END);

function titled(node, title) {
  node.title = title;
  return node;
}

function download(name, href) {
  const link = element("a");
  link.href = href;
  link.download = name;
  link.click();
}

const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
