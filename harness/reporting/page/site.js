// Filters of the leaderboard. Without the script all divisions are shown, sorted by worst case.

const filters = document.querySelector(".filters");
const [dataset, threat, words, sure] = ["dataset", "threat", "words", "sure"].map((name) => filters.elements[name]);
const divisions = [...document.querySelectorAll("tbody.division")];
const told = document.querySelector(".told");

/** Shows the rows that pass all filters, numbers them anew, and hides divisions without any. */
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const division of divisions) {
    const here = (!dataset.value || division.dataset.dataset === dataset.value)
      && (!threat.value || division.dataset.threat === threat.value);
    let shown = 0;
    for (const row of division.querySelectorAll("tr.standing")) {
      const fits = here && wanted.every((word) => row.dataset.words.includes(word))
        && !(sure.checked && row.dataset.doubted === "yes");
      row.hidden = !fits;
      shown += fits;
    }
    division.hidden = !shown;
    count += shown;
  }
  told.textContent = `${count} of ${divisions.reduce((sum, each) => sum + each.querySelectorAll("tr.standing").length, 0)} shown`;
}

filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.hidden = false;
const hint = () => document.querySelectorAll(".scroll").forEach((region) => {
  region.classList.toggle("wide", region.scrollWidth > region.clientWidth + 1);
});
addEventListener("resize", hint);
hint();
filter();
