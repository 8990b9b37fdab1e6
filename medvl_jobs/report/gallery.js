// Filters the gallery. Without it everything is shown; the controls are there only with it.
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const cases = [...document.querySelectorAll(".cases > li")];
  const told = document.getElementById("shown");
  const fits = (item, { modality, outcome, error }) =>
    (!modality || item.dataset.modality === modality) &&
    (!outcome || item.dataset.outcome === outcome) &&
    (!error || (error === "any" ? item.dataset.errors !== "" :
      error === "none" ? item.dataset.errors === "" : item.dataset.errors.split("|").includes(error.slice(1))));
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    let shown = 0;
    for (const item of cases) {
      item.hidden = !fits(item, wanted);
      shown += !item.hidden;
    }
    told.textContent = `${shown} of ${cases.length} images shown`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  form.hidden = false;
  apply();  // a browser may have kept the choices of the last visit
})();
