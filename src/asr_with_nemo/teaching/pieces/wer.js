// Edit a reference and a hypothesis, and see their alignment, S, D, I and the error rate.
// data: presets, a list of {name, reference, hypothesis}; the first is shown at the start.
const split = (text, inCharacters) => {
    const words = text.split(/\s+/).filter(Boolean);
    return inCharacters ? Array.from(words.join(" ")) : words;
};
const normalised = text => text.toLowerCase().replace(/[^\p{L}\p{N}'\s]/gu, " ");
// Among alignments with equally few errors, the one of recognition.wer: from the end on, an insertion before a deletion,
// and that before a substitution or a match.
const align = (reference, hypothesis) => {
    const cost = Array.from({ length: reference.length + 1 }, (_, i) => [i]);
    for (let j = 1; j <= hypothesis.length; j++) cost[0][j] = j;
    for (let i = 1; i <= reference.length; i++) for (let j = 1; j <= hypothesis.length; j++) {
        const replace = cost[i - 1][j - 1] + (reference[i - 1] === hypothesis[j - 1] ? 0 : 1);
        cost[i][j] = Math.min(cost[i][j - 1] + 1, cost[i - 1][j] + 1, replace);
    }
    const pairs = [];
    for (let i = reference.length, j = hypothesis.length; i || j;) {
        if (j && cost[i][j] === cost[i][j - 1] + 1) pairs.push(["", hypothesis[--j]]);
        else if (i && cost[i][j] === cost[i - 1][j] + 1) pairs.push([reference[--i], ""]);
        else pairs.push([reference[--i], hypothesis[--j]]);
    }
    return pairs.reverse();
};
const kindOf = ([said, heard]) => (said === heard ? "" : !heard ? "D" : !said ? "I" : "S");
const COLOURS = { S: "--orange", D: "--red", I: "--blue" };
const NAMES = { S: "substitution", D: "deletion", I: "insertion", "": "correct" };

const field = (label, value) => {
    const input = element("input", { type: "text", value, "aria-label": label, spellcheck: "false", oninput: () => draw() });
    input.style.cssText = "flex: 1; min-width: 12rem";
    const name = element("span", {}, label);
    name.style.minWidth = "5.5rem";
    const row = element("label", {}, name, input);
    row.style.cssText = "display: flex; margin: 0.3rem 0";
    root.append(row);
    return input;
};
const buttons = element("div", { class: "row" }, ...data.presets.map(preset => element("button", { onclick: () => {
    reference.value = preset.reference;
    hypothesis.value = preset.hypothesis;
    draw();
} }, preset.name)));
root.append(buttons);
const reference = field("reference", data.presets[0].reference);
const hypothesis = field("hypothesis", data.presets[0].hypothesis);
const inCharacters = element("select", { "aria-label": "unit", onchange: () => draw() },
    element("option", { value: "" }, "words (WER)"), element("option", { value: "1" }, "characters (CER)"));
const isNormalised = element("input", { type: "checkbox", onchange: () => draw() });
root.append(element("div", { class: "row" }, element("label", {}, "compare", inCharacters),
    element("label", {}, isNormalised, "normalise first: lower case, no punctuation")));
const table = element("table");
const result = element("p", { role: "status" });
root.append(element("div", { class: "scroll" }, table), result);

const cell = (text, kind, isEmpty) => {
    const made = element("td", {}, isEmpty ? "–" : text === " " ? "␣" : text);
    if (kind) made.style.color = `var(${COLOURS[kind]})`;
    if (kind && !isEmpty) made.style.fontWeight = "600";
    return made;
};
const draw = () => {
    const [said, heard] = [reference, hypothesis].map(input =>
        split(isNormalised.checked ? normalised(input.value) : input.value, inCharacters.value));
    const pairs = align(said, heard);
    const rows = [element("tr", {}, element("th", { scope: "row" }, "said")), element("tr", {}, element("th", { scope: "row" }, "heard")),
        element("tr", {}, element("th", { scope: "row" }, "error"))];
    const counts = { S: 0, D: 0, I: 0, "": 0 };
    for (const pair of pairs) {
        const kind = kindOf(pair);
        counts[kind]++;
        rows[0].append(cell(pair[0], kind, !pair[0]));
        rows[1].append(cell(pair[1], kind, !pair[1]));
        const mark = cell(kind, kind, false);
        mark.title = NAMES[kind];
        if (kind) mark.style.background = `color-mix(in srgb, var(${COLOURS[kind]}) 18%, transparent)`;
        mark.dataset.pair = JSON.stringify(pair);
        rows[2].append(mark);
    }
    table.replaceChildren(...rows);
    const errors = counts.S + counts.D + counts.I, [unit, rate] = inCharacters.value ? ["characters", "CER"] : ["words", "WER"];
    const value = said.length ? `${(100 * errors / said.length).toFixed(1)}%` : "undefined: nothing was said";
    result.replaceChildren(`S ${counts.S} + D ${counts.D} + I ${counts.I} = ${errors} error${errors === 1 ? "" : "s"}, `,
        `divided by ${said.length} ${said.length === 1 ? unit.slice(0, -1) : unit} of the reference: `, element("strong", {}, `${rate} ${value}`));
};
draw();
