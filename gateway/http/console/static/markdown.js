// Shows a little Markdown (paragraphs, headings, lists, code, bold, italics) with DOM nodes.
// Text from a model only ever becomes a text node: no HTML is parsed, and links and images stay text.

// Cuts text into blocks: {kind: "code" | "heading" | "list" | "text", ...}, each with its source for comparison.
export function blocksOf(text) {
  const blocks = [];
  let open = null;
  const close = () => {
    if (open) blocks.push(open);
    open = null;
  };
  for (const line of text.split("\n")) {
    if (open?.kind === "code") {
      if (/^\s*```\s*$/.test(line)) close();
      else open.lines.push(line);
      continue;
    }
    const fence = /^\s*```\s*([\w+#.-]*)\s*$/.exec(line);
    const heading = /^(#{1,6})\s+(.+)$/.exec(line);
    const item = /^\s*(?:[-*•]|(\d{1,9})[.)])\s+(.*)$/.exec(line);
    if (fence) {
      close();
      open = { kind: "code", language: fence[1], lines: [] };
    } else if (line.trim() === "") {
      close();
    } else if (heading) {
      close();
      blocks.push({ kind: "heading", lines: [heading[2]] });
    } else if (item) {
      const ordered = item[1] !== undefined;
      if (open?.kind !== "list" || open.ordered !== ordered) {
        close();
        open = { kind: "list", ordered, start: ordered ? Number(item[1]) : 1, lines: [] };
      }
      open.lines.push(item[2]);
    } else if (open?.kind === "list" && /^\s{2,}\S/.test(line)) {
      open.lines[open.lines.length - 1] += "\n" + line.trim();
    } else {
      if (open?.kind !== "text") close();
      open ??= { kind: "text", lines: [] };
      open.lines.push(line);
    }
  }
  close();
  for (const block of blocks) block.source = JSON.stringify(block);
  return blocks;
}

const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]*?[^\s*])\*(?![\w*])/g;

function addInline(parent, text) {
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > from) parent.append(text.slice(from, match.index));
    from = match.index + match[0].length;
    const [, ticks, code, bold, italic] = match;
    const node = document.createElement(ticks ? "code" : bold !== undefined ? "strong" : "em");
    if (ticks) node.textContent = code;
    else addInline(node, bold ?? italic);
    parent.append(node);
  }
  if (from < text.length) parent.append(text.slice(from));
}

function nodeOf(block) {
  if (block.kind === "code") {
    const pre = document.createElement("pre");
    const code = document.createElement("code");
    code.textContent = block.lines.join("\n");
    pre.tabIndex = 0; // it scrolls sideways, so the keyboard must reach it
    pre.append(code);
    return pre;
  }
  if (block.kind === "list") {
    const list = document.createElement(block.ordered ? "ol" : "ul");
    if (block.ordered && block.start !== 1) list.start = block.start;
    for (const line of block.lines) {
      const item = document.createElement("li");
      addInline(item, line);
      list.append(item);
    }
    return list;
  }
  const node = document.createElement("p");
  if (block.kind === "heading") node.className = "heading";
  addInline(node, block.lines.join("\n"));
  return node;
}

// Makes `parent` show `text`. Blocks that did not change keep their nodes, so a long answer streams without flicker.
export function show(parent, text) {
  const blocks = blocksOf(text);
  const shown = parent.shownBlocks ?? [];
  blocks.forEach((block, index) => {
    if (shown[index] === block.source && parent.childNodes[index]) return;
    const node = nodeOf(block);
    if (parent.childNodes[index]) parent.childNodes[index].replaceWith(node);
    else parent.append(node);
  });
  while (parent.childNodes.length > blocks.length) parent.lastChild.remove();
  parent.shownBlocks = blocks.map((block) => block.source);
}
