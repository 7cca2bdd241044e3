document.querySelectorAll("#matrices th").forEach((heading, column) => heading.querySelector("button").onclick = () => {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  document.querySelectorAll("#matrices th").forEach(other => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = document.querySelector("#matrices tbody"), key = row => row.cells[column].dataset.key;
  const numbers = heading.classList.contains("n");
  const rows = [...body.rows].sort((a, b) => numbers ? key(a) - key(b) : key(a).localeCompare(key(b)));
  body.append(...(descending ? rows.reverse() : rows));
});
