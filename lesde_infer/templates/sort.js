for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (!table.tHead || body.rows.length < 2 || body.querySelector("[colspan]")) continue;
  table.tHead.rows[0].querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const text = row.cells[column].innerText.trim();
        const plain = text.replace(/^[<>≤≥] */, "").replace(/−/g, "-").replace(/,(?=\d{3})/g, "");
        const number = /^(-?[\d.]+)(?:×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?/.exec(plain);
        if (!number) return [text];
        const power = (number[2] || "⁰").replace(/⁻/g, "-").replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹]/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(digit));
        return [number[1] * 10 ** power, text];
      };
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const order = x.length !== y.length ? y.length - x.length : x.length > 1 ? x[0] - y[0] : x[0].localeCompare(y[0]);
        return x.length === y.length && !up ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
