// What the page can do without: tips where <title> is slow or, on a touch screen, absent; picking a line out by its legend;
// sorting a table by its columns.
(() => {
  const tip = document.createElement('div');
  tip.id = 'tip';
  tip.setAttribute('role', 'status');
  document.body.append(tip);
  for (const title of document.querySelectorAll('figure svg title')) {
    const shape = title.parentNode;
    shape.dataset.tip = title.textContent;
    shape.setAttribute('aria-label', title.textContent);
    title.remove();
  }

  const show = (event, x, y) => {
    const shape = event.target.closest && event.target.closest('[data-tip]');
    if (!shape) { tip.style.visibility = 'hidden'; return; }
    tip.textContent = shape.dataset.tip;
    const wide = tip.offsetWidth, high = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - wide - 4)) + 'px';
    tip.style.top = (y + 18 + high > innerHeight ? Math.max(4, y - high - 12) : y + 18) + 'px';
    tip.style.visibility = 'visible';
  };
  for (const kind of ['pointermove', 'pointerdown'])
    document.addEventListener(kind, event => show(event, event.clientX, event.clientY));
  document.addEventListener('focusin', event => {
    const place = event.target.getBoundingClientRect();
    show(event, place.left + place.width / 2, place.bottom);
  });
  document.addEventListener('scroll', () => { tip.style.visibility = 'hidden'; }, {passive: true});

  for (const item of document.querySelectorAll('.legend li')) {
    const lines = [...item.closest('figure').querySelectorAll('.s')];
    const named = lines.some(line => line.dataset.s === item.textContent);
    const pick = on => lines.forEach(line => line.classList.toggle('dim', on && named && line.dataset.s !== item.textContent));
    item.addEventListener('pointerenter', () => pick(true));
    item.addEventListener('pointerleave', () => pick(false));
  }

  const value = cell => {
    const found = parseFloat(cell.textContent.replace(/[,+]/g, ''));
    return isNaN(found) ? null : found;
  };
  for (const head of document.querySelectorAll('table.sorts th')) {
    head.dataset.sort = '';
    head.addEventListener('click', () => {
      const body = head.closest('table').tBodies[0], at = head.cellIndex, down = head.dataset.sort === 'up';
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a.cells[at]), y = value(b.cells[at]);
        return x !== null && y !== null ? x - y : a.cells[at].textContent.localeCompare(b.cells[at].textContent);
      });
      if (down) rows.reverse();
      for (const other of head.parentNode.cells) other.dataset.sort = '';
      head.dataset.sort = down ? 'down' : 'up';
      body.append(...rows);
    });
  }
})();
