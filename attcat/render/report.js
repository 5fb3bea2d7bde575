"use strict";
// What moves on a report. Everything from outside is set as text, never as markup.
(() => {
  const { look, items } = JSON.parse(document.getElementById("data").textContent);
  const signed = (x, digits = 3) => (x < 0 ? "-" : x > 0 ? "+" : "") + String(Number(Math.abs(x).toPrecision(digits)));
  const percent = (x) => (100 * x).toFixed(1) + "%";

  function make(tag, properties = {}, children = []) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  /** Buttons of which one is pressed; `choose(name)` is called when another one is. */
  function choice(title, names, choose) {
    const buttons = names.map((name) => make("button", { type: "button", textContent: name }));
    const press = (name) => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === name)));
      choose(name);
    };
    buttons.forEach((button) => button.addEventListener("click", () => press(button.textContent)));
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === 0)));
    const group = make("fieldset", {}, buttons);
    group.setAttribute("aria-label", title);
    return group;
  }

  function readout() {
    const line = make("p", { className: "readout", textContent: "" });
    line.setAttribute("aria-live", "polite");
    return line;
  }

  // -- texts ---------------------------------------------------------------------------------------------------------

  /** Each stretch that has a score, with its share of the magnitude (of `whole`, where there are patches too) and its rank;
   * one Tab stop, then the arrow keys. */
  function listen(parts, line, whole) {
    const total = whole || parts.reduce((sum, part) => sum + Math.abs(part.score), 0) || 1;
    const ranked = [...parts].sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
    ranked.forEach((part, at) => (part.rank = at + 1));
    parts.forEach((part, at) => {
      part.share = Math.abs(part.score) / total;
      const { element } = part;
      const tell = () => {
        const text = part.element.textContent.trim();
        line.textContent =
          `${text}: ${signed(part.score)}, ${percent(part.share)} of the magnitude, rank ${part.rank} of ${parts.length}`;
      };
      element.tabIndex = at === 0 ? 0 : -1;
      element.addEventListener("mouseenter", tell);
      element.addEventListener("focus", tell);
      element.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const next = step ? parts[at + step] : event.key === "Home" ? parts[0] : event.key === "End" ? parts.at(-1) : null;
        if (!next) return;
        event.preventDefault();
        element.tabIndex = -1;
        next.element.tabIndex = 0;
        next.element.focus();
      });
    });
    return ranked;
  }

  /** A text cut as a view says (length and score by turns), drawn as the page draws its words. */
  function drawn(text, view, full) {
    const nodes = [];
    for (let at = 0, start = 0; at < view.length; start += view[at], at += 2) {
      const [part, score] = [text.slice(start, start + view[at]), view[at + 1]];
      if (score === null) {
        nodes.push(document.createTextNode(part));
        continue;
      }
      const strength = full ? Math.min(Math.abs(score) / full, 1) : 0;
      const element = make(strength >= 0.05 ? "mark" : "span", { textContent: part });
      if (strength >= 0.05) {
        element.className = score > 0 ? "for" : "against";
        element.style.setProperty("--s", strength);
      }
      element.dataset.score = score;
      nodes.push(element);
    }
    return nodes;
  }

  const scored = (boxes) =>
    boxes.flatMap((box) =>
      [...box.querySelectorAll("[data-score]")].map((element) => ({ element, score: Number(element.dataset.score) })),
    );

  function strongest(ranked, list) {
    const top = Math.abs(ranked[0]?.score) || 1;
    const some = ranked.filter((part) => part.score).slice(0, 10);
    list.replaceChildren(
      ...some.map((part) => {
        const bar = make("i", { className: part.score > 0 ? "for" : "against" });
        bar.style.width = percent(Math.abs(part.score) / top);
        const row = make("li", {}, [
          make("span", { textContent: part.element.textContent.trim(), title: part.element.textContent.trim() }),
          make("span", {}, [bar]),
          make("b", { textContent: `${signed(part.score)}  ${percent(part.share)}` }),
        ]);
        row.addEventListener("mouseenter", () => part.element.classList.add("lit"));
        row.addEventListener("mouseleave", () => part.element.classList.remove("lit"));
        return row;
      }),
    );
  }

  function enhanceText(article, item) {
    const boxes = [...article.querySelectorAll(".text")];
    if (!boxes.length) return;
    for (const element of article.querySelectorAll(".text [title]")) {
      element.dataset.score = element.title; // the readout says more than the tooltip
      element.removeAttribute("title");
    }
    const { views } = item;
    const words = boxes.map((box) => [...box.childNodes]);
    const texts = boxes.map((box) => box.textContent);
    const line = readout();
    const list = make("ol", { className: "strongest" });
    list.setAttribute("aria-label", "Strongest, with score and share of the magnitude");
    const show = (name) => {
      boxes.forEach((box, at) =>
        box.replaceChildren(...(views[name] ? drawn(texts[at], views[name][at], item.full) : words[at])),
      );
      line.textContent = "";
      strongest(listen(scored(boxes), line, item.total), list);
    };
    show("words");
    const tools = make("div", { className: "tools" }, [
      choice("What a score belongs to", ["words", "tokens", "sentences"], show),
    ]);
    const place = boxes[0].closest(".pair") ?? boxes[0];
    place.before(tools);
    place.after(line);
    (article.querySelector(".key") ?? line).after(list);
    const inWords = scored(boxes).map(({ element }) => element.textContent);
    const named = () => {
      const nodes = views.tokens ? drawn(texts[0], views.tokens[0], 0) : [];
      const parts = views.tokens ? nodes.filter((node) => node.dataset?.score).map((node) => node.textContent) : [...inWords];
      return item.tokens.map((label) => (label === 0 ? (parts.shift() ?? "") : label));
    };
    if (item.layers) article.append(layersOf(() => layerTable(item, named())));
  }

  /** A closed section that is filled when it is opened. */
  function layersOf(content) {
    const inside = make("div");
    const details = make("details", { className: "layers" }, [make("summary", { textContent: "Layer by layer" }), inside]);
    details.addEventListener("toggle", () => {
      if (details.open && !inside.childElementCount) inside.append(content());
    });
    return details;
  }

  function layerTable(item, tokens) {
    const head = make("tr", {}, [make("th", { textContent: "token" })]);
    item.layers.forEach((_, at) => head.append(make("th", { textContent: String(at + 1) })));
    const rows = tokens.map((token, at) => {
      const row = make("tr", {}, [make("th", { textContent: token, scope: "row" })]);
      for (const layer of item.layers) {
        const cell = make("td", { textContent: signed((layer[at] / 1000) * item.top, 2) });
        if (Math.abs(layer[at]) >= 50) {
          cell.className = layer[at] > 0 ? "for" : "against";
          cell.style.setProperty("--s", Math.abs(layer[at]) / 1000);
        }
        row.append(cell);
      }
      return row;
    });
    return make("table", {}, [make("thead", {}, [head]), make("tbody", {}, rows)]);
  }

  // -- pictures ------------------------------------------------------------------------------------------------------

  /** Where along one axis each pixel lies between two cells: cell below, share of the one above; null outside. */
  function along(pixels, start, stop, cells) {
    return Array.from({ length: pixels }, (_, pixel) => {
      const at = (((pixel + 0.5) / pixels - start) / (stop - start)) * cells;
      if (at < 0 || at > cells) return null;
      const position = Math.min(Math.max(at - 0.5, 0), cells - 1);
      const below = Math.min(Math.floor(position), Math.max(cells - 2, 0));
      return { below, share: position - below, cell: Math.min(Math.floor(at), cells - 1) };
    });
  }

  /** The heatmap over the grey picture, as the library draws it. */
  function paint(canvas, ground, item, values, full, how) {
    const { width, height } = canvas;
    const [rows, columns] = item.grid;
    const [left, top, right, bottom] = item.box;
    const across = along(width, left, right, columns);
    const down = along(height, top, bottom, rows);
    const context = canvas.getContext("2d");
    const out = context.createImageData(width, height);
    const value = (row, column) => values[row * columns + column] || 0;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const at = 4 * (y * width + x);
        const grey = ground[y * width + x];
        const [a, b] = [down[y], across[x]];
        let colour = [grey, grey, grey];
        if (!a || !b) {
          colour = (x + y) % 12 < 2 ? [125, 125, 125] : colour.map((part) => part * 0.4);
        } else {
          const next = [Math.min(a.below + 1, rows - 1), Math.min(b.below + 1, columns - 1)];
          const score = how.cells
            ? value(a.cell, b.cell)
            : (value(a.below, b.below) * (1 - b.share) + value(a.below, next[1]) * b.share) * (1 - a.share) +
              (value(next[0], b.below) * (1 - b.share) + value(next[0], next[1]) * b.share) * a.share;
          const strength = full ? Math.min(Math.max(score / full, how.positive ? 0 : -1), 1) : 0;
          const above = Math.max(0, (Math.abs(strength) - look.threshold) / (1 - look.threshold));
          const alpha = how.opacity * above ** look.power;
          const top = strength > 0 ? look.light : y % look.stripes === 0 ? look.line : look.dark;
          colour = colour.map((part, index) => part * (1 - alpha) + top[index] * alpha);
        }
        out.data.set([...colour.map(Math.round), 255], at);
      }
    }
    context.putImageData(out, 0, 0);
  }

  /** Grey values of the picture, between a dark and a pale grey. */
  function groundOf(image, width, height) {
    if (!image) return new Float32Array(width * height).fill(look.blank[0]);
    const canvas = make("canvas", { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height).data;
    return Float32Array.from({ length: width * height }, (_, at) => {
      const grey = 0.299 * pixels[4 * at] + 0.587 * pixels[4 * at + 1] + 0.114 * pixels[4 * at + 2];
      return 40 + (grey * 205) / 255;
    });
  }

  async function enhanceImage(article, item) {
    const still = article.querySelector(".overlay img");
    const input = article.querySelector(".photo img");
    if (!still) return;
    if (input) await input.decode();
    const [width, height] = [still.width, still.height];
    const canvas = make("canvas", { width, height, tabIndex: 0 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", still.alt);
    const ground = groundOf(input, width, height);
    const how = { opacity: look.opacity, positive: false, cells: false };
    const redraw = () => paint(canvas, ground, item, item.values, item.full, how);
    redraw();
    still.replaceWith(canvas);
    const line = readout();
    const slider = make("input", { type: "range", min: 0, max: 100, value: 100 * look.opacity });
    slider.addEventListener("input", () => {
      how.opacity = slider.value / 100;
      redraw();
    });
    const set = (name, value) => {
      how[name] = value;
      redraw();
    };
    const tools = make("div", { className: "tools" }, [
      make("label", {}, ["opacity ", slider]),
      ...(item.sides ? [choice("Signs", ["for and against", "for only"], (name) => set("positive", name === "for only"))] : []),
      choice("Drawing", ["smooth", "patches"], (name) => set("cells", name === "patches")),
    ]);
    article.querySelector(".pictures").before(tools);
    article.querySelector(".pictures").after(line);
    point(canvas, item, line);
    if (item.layers) article.append(layersOf(() => multiples(item, input, width, height)));
  }

  /** Values under the pointer; with the keyboard the arrow keys go from patch to patch. */
  function point(canvas, item, line) {
    const [rows, columns] = item.grid;
    const [left, top, right, bottom] = item.box;
    const total = item.values.reduce((sum, value) => sum + Math.abs(value), 0) || 1;
    const magnitudes = item.values.map(Math.abs).sort((a, b) => b - a);
    let cell = [Math.floor(rows / 2), Math.floor(columns / 2)];
    const tell = () => {
      const value = item.values[cell[0] * columns + cell[1]];
      const rank = magnitudes.indexOf(Math.abs(value)) + 1;
      line.textContent =
        `row ${cell[0] + 1}, column ${cell[1] + 1}: ${signed(value)}, ${percent(Math.abs(value) / total)} of the magnitude, ` +
        `rank ${rank} of ${magnitudes.length}`;
    };
    canvas.addEventListener("mousemove", (event) => {
      const place = canvas.getBoundingClientRect();
      const row = Math.floor((((event.clientY - place.top) / place.height - top) / (bottom - top)) * rows);
      const column = Math.floor((((event.clientX - place.left) / place.width - left) / (right - left)) * columns);
      if (row < 0 || column < 0 || row >= rows || column >= columns) {
        line.textContent = "not seen by the model";
        return;
      }
      cell = [row, column];
      tell();
    });
    canvas.addEventListener("focus", tell);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      cell = [
        Math.min(Math.max(cell[0] + step[0], 0), rows - 1),
        Math.min(Math.max(cell[1] + step[1], 0), columns - 1),
      ];
      tell();
    });
  }

  /** What each block gives, on one scale: the 99th percentile of all of them. */
  function multiples(item, input, width, height) {
    const scale = 150 / Math.max(width, height);
    const size = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    const ground = groundOf(input, ...size);
    const sorted = item.layers.flat().map(Math.abs).sort((a, b) => a - b);
    const full = sorted[Math.floor(0.99 * (sorted.length - 1))] || sorted.at(-1);
    const total = sorted.reduce((sum, value) => sum + value, 0) || 1;
    const figures = item.layers.map((values, at) => {
      const canvas = make("canvas", { width: size[0], height: size[1] });
      paint(canvas, ground, item, values, full, { opacity: look.opacity, positive: false, cells: false });
      const net = values.reduce((sum, value) => sum + value, 0) / total;
      return make("figure", {}, [canvas, make("figcaption", { textContent: `block ${at + 1}: ${signed(100 * net, 2)}%` })]);
    });
    return make("div", { className: "multiples" }, figures);
  }

  // -- the page ------------------------------------------------------------------------------------------------------

  const done = new WeakSet();
  function enhance(article) {
    if (done.has(article)) return;
    done.add(article);
    const item = items[article.dataset.item];
    if (item.grid) enhanceImage(article, item);
    else if (item.views) enhanceText(article, item);
    else if (item.layers) article.append(layersOf(() => layerTable(item, item.tokens)));
  }

  /** Several classes of one input: one at a time. */
  function switchClasses(section) {
    const articles = [...section.querySelectorAll("article")];
    if (articles.length < 2) return;
    const select = make("select");
    articles.forEach((article, at) =>
      select.append(make("option", { value: String(at), textContent: article.querySelector("h2").textContent })),
    );
    const show = () => articles.forEach((article, at) => (article.hidden = String(at) !== select.value));
    select.addEventListener("change", () => {
      show();
      enhance(articles[select.value]);
    });
    show();
    section.prepend(make("div", { className: "tools" }, [make("label", {}, ["class that is explained ", select])]));
  }

  /** The index can be searched and sorted; what is filtered out is hidden on the page, too. */
  function enhanceIndex(index) {
    const body = index.querySelector("tbody");
    const rows = [...body.rows].map((row) => ({
      row,
      section: document.getElementById(row.querySelector("a").hash.slice(1)),
      text: (row.cells[1].textContent + " " + row.cells[2].textContent).toLowerCase(),
    }));
    const search = make("input", { type: "search", placeholder: "search inputs and labels" });
    search.setAttribute("aria-label", "Search inputs and labels");
    const count = make("span", { textContent: `${rows.length} inputs` });
    count.setAttribute("aria-live", "polite");
    search.addEventListener("input", () => {
      const wanted = search.value.trim().toLowerCase();
      let found = 0;
      for (const { row, section, text } of rows) {
        const hit = text.includes(wanted);
        row.hidden = section.hidden = !hit;
        found += hit;
      }
      count.textContent = found === rows.length ? `${rows.length} inputs` : `${found} of ${rows.length} inputs`;
    });
    index.before(make("div", { className: "tools" }, [search, count]));
    const numeric = (cell) => parseFloat(cell.textContent);
    [...index.querySelectorAll("th")].forEach((head, column) => {
      const button = make("button", { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        index.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const compare = (a, b) => {
          const [one, other] = [a.row.cells[column], b.row.cells[column]];
          return column === 0 || column === 3
            ? (numeric(one) || 0) - (numeric(other) || 0)
            : one.textContent.localeCompare(other.textContent);
        };
        rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
        body.append(...rows.map(({ row }) => row));
      });
    });
  }

  document.querySelectorAll(".report .index").forEach(enhanceIndex);
  document.querySelectorAll(".report .place").forEach(switchClasses);
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => enhance(entry.target)),
    { rootMargin: "400px" },
  );
  document.querySelectorAll(".report article").forEach((article) => near.observe(article));
})();
