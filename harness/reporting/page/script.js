/** Verdicts as the page says them. */
const VERDICTS = { fooled: "misclassified", robust: "robust", error: "error" };

const galleries = JSON.parse(document.getElementById("galleries").textContent);

/** An element with properties and children; text is never read as markup. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function drawn(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// The explorer: the reader chooses a pairing and a verdict, its images are shown, and one opens in the dialog.

class Explorer {
  constructor(section) {
    this.gallery = galleries[Number(section.dataset.run)];
    this.section = section;
    this.defense = make("select");
    this.attack = make("select");
    this.verdict = make("select");
    this.said = make("p", { className: "said", ariaLive: "polite" });
    this.thumbs = make("div", { className: "thumbs" });
    if (!this.gallery.pairings.length) {
      section.append(make("p", { className: "said" }, "No image is finished yet."));
      return;
    }
    const choices = [["Defense", this.defense], ["Attack", this.attack], ["Verdict", this.verdict]];
    section.append(
      make("div", { className: "choices" }, ...choices.map(([name, select]) => make("label", {}, name, select))),
      this.said,
      this.thumbs,
    );
    this.fill(this.defense, this.gallery.pairings.map((pairing) => [pairing.defense, pairing.labels[0]]));
    this.defense.addEventListener("change", () => this.choose(this.defense.value, this.attack.value));
    this.attack.addEventListener("change", () => this.choose(this.defense.value, this.attack.value));
    this.verdict.addEventListener("change", () => this.show());
    this.choose(this.defense.value, null);
  }

  fill(select, options) {
    const names = new Map(options);
    select.replaceChildren(...[...names].map(([value, text]) => make("option", { value }, text)));
  }

  /** Shows a pairing; of a defense that did not meet the attack, its first. */
  choose(defense, attack) {
    const met = this.gallery.pairings.filter((pairing) => pairing.defense === defense);
    if (!met.length) return;
    this.pairing = met.find((pairing) => pairing.attack === attack) ?? met[0];
    this.defense.value = defense;
    this.fill(this.attack, met.map((pairing) => [pairing.attack, `${pairing.labels[1]}, ${pairing.threat}`]));
    this.attack.value = this.pairing.attack;
    const images = this.pairing.images;
    const count = (verdict) => images.filter((image) => image.verdict === verdict).length;
    const verdicts = ["fooled", "robust", "error"].filter(count);
    const kept = this.verdict.value;
    this.fill(this.verdict, [["", `all ${images.length}`], ...verdicts.map((each) => [each, `${VERDICTS[each]} (${count(each)})`])]);
    this.verdict.value = verdicts.includes(kept) ? kept : "";
    this.show();
  }

  show() {
    const { images, total, method } = this.pairing;
    this.shown = images.filter((image) => !this.verdict.value || image.verdict === this.verdict.value);
    const left = total - images.length;
    const sentences = [`Attacked by ${method}.`];
    if (left) sentences.push(`The first ${images.length} of ${total} images; ${left} are left out of this page (--images N embeds more).`);
    if (this.gallery.missing) sentences.push(`Clean images are not shown: ${this.gallery.missing}.`);
    this.said.textContent = sentences.join(" ");
    this.thumbs.replaceChildren(...this.shown.map((image, at) => this.thumb(image, at)));
  }

  thumb(image, at) {
    const words = `${image.true} → ${image.answer}`;
    const picture = make("img", { src: image.adv ?? this.gallery.clean[image.index], alt: "", loading: "lazy" });
    const verdict = VERDICTS[image.verdict];
    const said = make("span", {}, make("b", { className: "verdict" }, verdict), words);
    const button = make("button", { type: "button", className: `thumb ${image.verdict}` }, picture, said);
    button.ariaLabel = `Image ${image.index}: ${words}, ${verdict}`;
    button.addEventListener("click", () => detail.open(this, at));
    return button;
  }
}

class Detail {
  constructor(dialog) {
    this.dialog = dialog;
    this.part = (selector) => dialog.querySelector(selector);
    for (const button of dialog.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => this.step(Number(button.dataset.step)));
    }
    this.part("[data-close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => history.replaceState(null, "", "#"));
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.step(-1);
      if (event.key === "ArrowRight") this.step(1);
    });
  }

  open(explorer, at) {
    this.explorer = explorer;
    this.at = at;
    this.render();
    if (!this.dialog.open) this.dialog.showModal();
  }

  step(by) {
    const count = this.explorer.shown.length;
    this.at = (this.at + by + count) % count;
    this.render();
  }

  render() {
    const explorer = this.explorer;
    const { gallery, pairing, shown } = explorer;
    const image = shown[this.at];
    this.dialog.className = image.verdict;
    const address = addressOf(explorer, image);
    history.replaceState(null, "", address);
    this.part("#detail-title").replaceChildren(
      make("a", { href: address, title: "The address of this image" }, `Image ${image.index}`), `, a ${image.true}: `, make("span", { className: "verdict" }, VERDICTS[image.verdict]),
    );
    this.part(".place").textContent = `${pairing.labels.join(" under ")}, ${this.at + 1} of ${shown.length}`;
    this.part(".pictures").replaceChildren(...this.pictures(gallery, pairing, image));
    this.part(".answers").replaceChildren(answers(image));
    const facts = [["Budget", `${pairing.threat} (${pairing.method})`], ...image.facts];
    this.part(".record").replaceChildren(...facts.flatMap(fact));
    this.part(".everywhere").replaceChildren(...this.everywhere(gallery, image.index));
  }

  /** The same image under every attack on every defense; a click on one opens it here. */
  * everywhere(gallery, index) {
    if (gallery.pairings.length < 2) return;
    const unique = (place, at) => [...new Map(gallery.pairings.map((each) => [each[place], each.labels[at]]))];
    const defenses = unique("defense", 0), attacks = unique("attack", 1);
    const cell = (defense, attack) => {
      const pairing = gallery.pairings.find((each) => each.defense === defense && each.attack === attack);
      const image = pairing?.images.find((each) => each.index === index);
      return make("td", {}, ...(image ? [this.small(gallery, pairing, image)] : []));
    };
    const head = attacks.map(([, label]) => make("th", { scope: "col" }, label));
    const rows = defenses.map(([defense, label]) => make(
      "tr", {}, make("th", { scope: "row" }, label), ...attacks.map(([attack]) => cell(defense, attack)),
    ));
    const table = make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...head)), make("tbody", {}, ...rows));
    yield make("h4", {}, `Image ${index} under every attack on every defense`);
    yield make("div", { className: "scroll", tabIndex: 0 }, table);
  }

  small(gallery, pairing, image) {
    const picture = make("img", { src: image.adv ?? gallery.clean[image.index], alt: "" });
    const here = pairing === this.explorer.pairing;
    const button = make("button", { type: "button", className: `tile ${image.verdict}${here ? " here" : ""}` }, picture,
      make("b", { className: "verdict" }, VERDICTS[image.verdict]));
    button.ariaLabel = `${pairing.labels.join(" under ")}: ${VERDICTS[image.verdict]}, ${image.answer}`;
    button.addEventListener("click", () => {
      this.explorer.verdict.value = "";
      this.explorer.choose(pairing.defense, pairing.attack);
      this.at = this.explorer.shown.findIndex((each) => each.index === image.index);
      this.render();
    });
    return button;
  }

  * pictures(gallery, pairing, image) {
    const clean = gallery.clean[image.index];
    if (clean) yield picture(clean, "Clean", `class ${image.true}`);
    const now = image.decided ? `classified as ${image.answer}` : image.answer;
    yield picture(image.adv ?? clean, "Adversarial", image.adv ? now : `${now}; the attack changed nothing`);
    if (image.difference) yield picture(image.difference, "Difference", `×\u00a0${pairing.gain}, grey is zero`);
    if (image.flow) yield flow(image);
  }
}

/** A fact of the record; with an address, it is a link. */
function fact([name, text, href]) {
  return [make("dt", {}, name), make("dd", {}, href ? make("a", { href }, text) : text)];
}

/** The address of an image within the page: #run/defense/attack/index. */
function addressOf(explorer, image) {
  const { defense, attack } = explorer.pairing;
  return `#${[explorer.section.dataset.run, defense, attack, image.index].map(encodeURIComponent).join("/")}`;
}

/** Opens the image that the page's address names, if the page has it. */
function openAddressed() {
  const [run, defense, attack, index] = location.hash.slice(1).split("/").map(decodeURIComponent);
  const explorer = explorers[Number(run)];
  if (index === undefined || !explorer) return;
  const pairing = explorer.gallery.pairings.find((each) => each.defense === defense && each.attack === attack);
  const at = pairing?.images.findIndex((each) => each.index === Number(index)) ?? -1;
  if (at < 0) return;
  explorer.choose(defense, attack);
  explorer.verdict.value = "";
  explorer.show();
  detail.open(explorer, at);
}

function picture(src, name, words) {
  return make("figure", {}, make("img", { src, alt: name }), make("figcaption", {}, make("b", {}, name), words));
}

/** Arrows [x, y, dx, dy]: a value was taken at (x + dx, y + dy) and went to (x, y). Short ones are drawn longer. */
function flow(image) {
  const [width, height] = image.size;
  const spacing = Math.sqrt((width * height) / image.flow.length);
  const longest = Math.max(...image.flow.map(([, , dx, dy]) => Math.hypot(dx, dy)));
  const gain = [20, 10, 5, 2].find((factor) => factor * longest <= 1.2 * spacing) ?? 1;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Flow field" });
  if (image.adv) svg.append(drawn("image", { href: image.adv, width, height, opacity: 0.35, class: "flow" }));
  const path = image.flow.map(([x, y, dx, dy]) => arrow(x + gain * dx, y + gain * dy, x, y, spacing)).join("");
  svg.append(drawn("path", { d: path }));
  const scale = gain > 1 ? `, drawn ×\u00a0${gain}` : "";
  const words = `where pixels moved${scale}; the farthest by ${longest.toFixed(2)} pixels`;
  return make("figure", {}, svg, make("figcaption", {}, make("b", {}, "Flow"), words));
}

function arrow(x0, y0, x1, y1, spacing) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (length < 0.02 * spacing) return "";
  const head = Math.min(0.3 * spacing, 0.5 * length);
  const angle = Math.atan2(y1 - y0, x1 - x0);
  const barb = (turn) => `${(x1 - head * Math.cos(angle + turn)).toFixed(2)} ${(y1 - head * Math.sin(angle + turn)).toFixed(2)}`;
  const tip = `${x1.toFixed(2)} ${y1.toFixed(2)}`;
  return `M${x0.toFixed(2)} ${y0.toFixed(2)}L${tip}M${barb(0.5)}L${tip}L${barb(-0.5)}`;
}

/** The answers of each draw, before and after. */
function answers(image) {
  const draws = Math.max(image.before.length, image.after.length);
  const head = ["", "before", "margin", "after", "margin"].map((text) => make("th", { scope: "col" }, text));
  const rows = Array.from({ length: draws }, (_, draw) => make(
    "tr", {},
    make("th", { scope: "row" }, draws > 1 ? `draw ${draw + 1}` : "answer"),
    ...answer(image.before[draw]), ...answer(image.after[draw]),
  ));
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

function answer(found) {
  if (!found) return [make("td", {}, "none"), make("td")];
  const [name, right, margin] = found;
  const words = `${right ? "✓" : "✗"} ${name}`;
  return [make("td", { className: right ? "right" : "wrong" }, words), make("td", { className: "number" }, margin)];
}

// Tables that are wider than the page say so.

function hint() {
  for (const region of document.querySelectorAll("main .scroll")) {
    region.classList.toggle("wide", region.scrollWidth > region.clientWidth + 1);
  }
}

addEventListener("resize", hint);
document.addEventListener("toggle", hint, true);
hint();

const detail = new Detail(document.getElementById("detail"));
const explorers = [...document.querySelectorAll(".explorer")].map((section) => new Explorer(section));

addEventListener("hashchange", openAddressed);
openAddressed();

for (const button of document.querySelectorAll(".open")) {
  button.title = "Show the images";
  button.addEventListener("click", () => {
    const explorer = explorers[Number(button.dataset.run)];
    explorer.choose(button.dataset.defense, button.dataset.attack);
    explorer.section.scrollIntoView({ behavior: "smooth" });
  });
}
