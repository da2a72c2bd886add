// What several pieces use. element("p", {class: "x", onclick: f}, "text", child) makes an HTML element; svg(...) an SVG one.
const make = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
        if (typeof value === "function") node.addEventListener(name.replace(/^on/, ""), value);
        else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
};
const element = (name, attributes = {}, ...children) => make(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
    make(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
// slider("epoch", 0, 9, 1, 0, value => ...) is a labelled slider with its value behind it; arrow keys move it.
const slider = (text, low, high, step, value, changed, shown = String) => {
    const out = element("output", {}, shown(value));
    const input = element("input", { type: "range", min: low, max: high, step, value, "aria-label": text, oninput: () => {
        out.textContent = shown(Number(input.value));
        changed(Number(input.value));
    } });
    return { node: element("label", {}, text, input, out), input };
};
