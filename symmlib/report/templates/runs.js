/* The list of runs: shows those that have all words and every choice, and keeps these in the address, to be shared. */
"use strict";
(() => {
  const form = document.querySelector("form.find");
  if (!form) return;
  const found = document.querySelector(".found");
  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ");
  const runs = [...document.querySelectorAll("table.runs tbody tr")].map((row) => {
    const words = plain(row.dataset.words);
    return { row, text: plain(row.textContent) + " " + words, tokens: new Set(words.split(" ")) };
  });
  const fields = [...form.elements].filter((field) => field.name);
  const choices = fields.filter((field) => field.tagName === "SELECT");
  let waiting;

  function show() {
    const words = plain(form.elements.words.value).split(" ").filter(Boolean);
    const chosen = choices.filter((choice) => choice.value);
    let count = 0;
    for (const { row, text, tokens } of runs) {
      const here =
        words.every((word) => (word.includes("=") ? tokens.has(word) : text.includes(word))) &&
        chosen.every((choice) => row.dataset[choice.name] === choice.value);
      if (row.hidden === here) row.hidden = !here;
      count += here;
    }
    found.textContent = count === runs.length ? `All ${count} shown` : `${count} of ${runs.length} shown`;
  }

  /* Not at every letter: browsers refuse an address that changes too often. */
  function remember() {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const state = new URLSearchParams(fields.filter((field) => field.value).map((field) => [field.name, field.value]));
      history.replaceState(null, "", `${state}` ? `#${state}` : location.pathname + location.search);
    }, 200);
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const field of fields) {
      field.value = state.get(field.name) ?? "";
      if (field.selectedIndex === -1) field.value = ""; // a value that no run has any more
    }
    show();
  }

  form.addEventListener("input", () => { show(); remember(); });
  form.addEventListener("reset", () => setTimeout(() => { show(); remember(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", recall);
  form.hidden = false;
  recall();
})();
