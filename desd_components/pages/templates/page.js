// sorts a table by the column whose heading is clicked: numbers by value (data-v), words by letter, empty ones last
document.querySelectorAll("table.sortable").forEach(table => {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => { const cell = row.cells[column]; return cell.dataset.v ?? cell.textContent; };
    const compare = (a, b) => (a === "") - (b === "") || (down ? -1 : 1) *
      (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    [...body.rows].sort((a, b) => compare(key(a), key(b))).forEach(row => body.append(row));
  }));
  // and shows the rows that hold what is typed; a short table needs no filter
  if (body.rows.length < 8) return;
  const field = document.createElement("input");
  Object.assign(field, { type: "search", placeholder: "filter", ariaLabel: "Show the rows that hold these letters" });
  field.addEventListener("input", () => [...body.rows].forEach(row => {
    row.hidden = !row.textContent.toLowerCase().includes(field.value.trim().toLowerCase());
  }));
  table.parentElement.before(field);
});

// leafs through the slices of a stack, which lie one below the other in one picture
document.querySelectorAll("figure.stack").forEach(stack => {
  const [strip, slider, said] = ["img", "input", "output"].map(name => stack.querySelector(name));
  const count = +slider.max + 1;
  const fit = () => Object.assign(strip.parentElement.style, {
    aspectRatio: `${strip.naturalWidth} / ${strip.naturalHeight / count}`, maxWidth: `${1.25 * strip.naturalWidth}px` });
  const show = () => {
    strip.style.transform = `translateY(${-100 * slider.value / count}%)`;
    said.textContent = slider.ariaValueText = `slice ${+slider.value + 1} of ${count}`;
  };
  strip.complete ? fit() : strip.addEventListener("load", fit);
  slider.addEventListener("input", show);
  stack.classList.add("leafed");
  show();
});

// tells the values of curves under the pointer, or where the arrow keys lead
document.querySelectorAll("svg[data-curves]").forEach(svg => {
  const { left, right, low, high, lines } = JSON.parse(svg.dataset.curves);
  const steps = [...new Set(lines.flatMap(line => line.x))].sort((a, b) => a - b);
  const nearest = (numbers, wanted) => numbers.reduce(
    (best, number, index) => Math.abs(number - wanted) < Math.abs(numbers[best] - wanted) ? index : best, 0);
  const drawing = svg.parentElement, mark = document.createElement("i"), tip = document.createElement("p");
  let place = steps.length - 1;
  const show = () => {
    const share = left + (steps[place] - low) / (high - low) * (right - left), side = share < 0.5 ? "left" : "right";
    mark.style.left = `${100 * share}%`;
    tip.style.inset = "0 auto auto auto";
    tip.style[side] = `${100 * Math.min(share, 1 - share) + 1}%`;
    tip.replaceChildren(`step ${steps[place]}`, ...lines.map(line => {
      const row = document.createElement("span");
      row.style.color = `var(--series-${line.color})`;
      row.textContent = `${line.label} ${line.y[nearest(line.x, steps[place])]}`;
      return row;
    }));
    drawing.classList.add("told");
  };
  drawing.append(mark, tip);
  drawing.className = "drawing";
  drawing.setAttribute("role", "group");
  drawing.tabIndex = 0;
  tip.setAttribute("role", "status");
  drawing.addEventListener("pointermove", event => {
    const box = drawing.getBoundingClientRect(), at = (event.clientX - box.left) / box.width;
    place = nearest(steps, low + (at - left) / (right - left) * (high - low));
    show();
  });
  drawing.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    place = Math.min(Math.max(place + by, 0), steps.length - 1);
    show();
  });
  ["pointerleave", "blur"].forEach(name => drawing.addEventListener(name, () => drawing.classList.remove("told")));
});
