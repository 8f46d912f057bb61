// Markdown as models write it, made of elements: text is only ever set as text, so nothing in an answer becomes HTML. Links
// stay text too: what a model names is not one click away.
"use strict";

// `code`, **bold**, *italic*.
function inline(text, parent) {
  const marks = /(`+)(.+?)\1|\*\*(.+?)\*\*|(?<![\w*])\*([^\s*](?:[^*]*[^\s*])?)\*(?![\w*])/g;
  let at = 0;
  for (const found of text.matchAll(marks)) {
    parent.append(text.slice(at, found.index));
    const [, , code, bold, italic] = found;
    const element = document.createElement(code !== undefined ? "code" : bold !== undefined ? "strong" : "em");
    if (code !== undefined) element.textContent = code;
    else inline(bold ?? italic, element);
    parent.append(element);
    at = found.index + found[0].length;
  }
  parent.append(text.slice(at));
}

function block(name, lines) {
  const element = document.createElement(name);
  inline(lines.join("\n"), element);
  return element;
}

function list(lines, at, pattern, name) {
  const element = document.createElement(name);
  if (name === "ol") element.start = Number.parseInt(lines[at], 10) || 1;
  while (at < lines.length && pattern.test(lines[at])) {
    const item = [lines[at].replace(pattern, "")];
    for (at += 1; at < lines.length && /^\s+\S/.test(lines[at]) && !pattern.test(lines[at]); at += 1) item.push(lines[at].trim());
    element.append(block("li", item));
  }
  return [element, at];
}

function fence(lines, at) {
  const mark = lines[at].trim().match(/^(`{3,}|~{3,})/)[0];
  const code = document.createElement("code");
  const text = [];
  for (at += 1; at < lines.length && !lines[at].trim().startsWith(mark); at += 1) text.push(lines[at]);
  code.textContent = text.join("\n");
  const pre = document.createElement("pre");
  pre.append(code);
  return [pre, at + 1];
}

const KINDS = [
  [/^\s*(`{3,}|~{3,})/, fence],
  [/^\s*[-*+]\s+/, (lines, at) => list(lines, at, /^\s*[-*+]\s+/, "ul")],
  [/^\s*\d{1,9}[.)]\s+/, (lines, at) => list(lines, at, /^\s*\d{1,9}[.)]\s+/, "ol")],
  [/^#{1,6}\s/, (lines, at) => [block(["h3", "h4", "h5"][Math.min(lines[at].match(/^#+/)[0].length, 3) - 1], [lines[at].replace(/^#+\s+/, "")]), at + 1]],
  [/^>\s?/, (lines, at) => {
    const said = [];
    for (; at < lines.length && /^>\s?/.test(lines[at]); at += 1) said.push(lines[at].replace(/^>\s?/, ""));
    return [block("blockquote", said), at];
  }],
];

// Replaces what an element holds.
function markdown(text, element) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const kind = KINDS.find(([pattern]) => pattern.test(lines[at]));
    if (kind) {
      const [made, next] = kind[1](lines, at);
      blocks.push(made);
      at = next;
    } else if (lines[at].trim() === "") at += 1;
    else {
      const said = [];
      for (; at < lines.length && lines[at].trim() !== "" && !KINDS.some(([pattern]) => pattern.test(lines[at])); at += 1) said.push(lines[at]);
      blocks.push(block("p", said));
    }
  }
  element.replaceChildren(...blocks);
}
