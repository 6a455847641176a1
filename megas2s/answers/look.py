"""Style and script of the side-by-side page: nothing is fetched, and without the script the page reads as it is."""

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --card: #fff; --ink: #1c1e21; --soft: #63686f; --line: #e2e4e7;
  --bar: #3f6fb5; --extra: #fde3d3; --extra-line: #c8511b; --lack: #dbe9fb; --lack-line: #2b62ae; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1d2024; --ink: #e7e9ec; --soft: #9aa1aa;
  --line: #31353b; --bar: #7da7e6; --extra: #4b2a18; --extra-line: #f0935e; --lack: #1c3556; --lack-line: #82b1f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Noto Sans", sans-serif; }
h1 { margin: 0 0 .2rem; font-size: 1.35rem; overflow-wrap: anywhere; }
p, ul { margin: .3rem 0; color: var(--soft); font-size: .88rem; }
.scores { overflow-x: auto; margin: 1.2rem 0 .6rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem 1rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { padding-top: .6rem; font-size: .82rem; font-weight: 600; color: var(--soft); white-space: nowrap; }
td b { font-size: 1.12rem; font-weight: 600; }
td small { display: block; color: var(--soft); font-size: .76rem; white-space: nowrap; }
td svg { display: block; margin-top: .15rem; fill: var(--bar); opacity: .75; }
summary { cursor: pointer; color: var(--soft); font-size: .88rem; }
code { font-size: .78rem; overflow-wrap: anywhere; }
form { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: center;
  margin: 1.4rem 0 .8rem; padding: .6rem 0; background: var(--paper); border-bottom: 1px solid var(--line);
  font-size: .88rem; }
form[hidden] { display: none; }
select, button, input { font: inherit; color: inherit; padding: .2rem .5rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .3rem; }
input[type=search] { flex: 1 1 10rem; min-width: 8rem; }
output { margin-left: auto; color: var(--soft); }
article { margin: 0 0 .8rem; padding: .7rem .9rem .8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .45rem; }
article[hidden] { display: none; }
header.row { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: baseline; margin-bottom: .45rem;
  font-size: .78rem; color: var(--soft); }
.score { padding-bottom: .1rem; font-variant-numeric: tabular-nums;
  background: linear-gradient(var(--bar), var(--bar)) left bottom / calc(var(--share) * 100%) 2px no-repeat,
    linear-gradient(var(--line), var(--line)) left bottom / 100% 2px no-repeat; }
.score b { color: var(--ink); font-weight: 600; }
dl { display: grid; grid-template-columns: 5.6rem minmax(0, 1fr); gap: .3rem .6rem; margin: 0; }
dt { color: var(--soft); font-size: .78rem; padding-top: .16rem; }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
dd.source { color: var(--soft); font-size: .92rem; max-height: 4.6em; overflow-y: auto; }
dd i { color: var(--soft); }
ins { background: var(--extra); text-decoration: underline 2px var(--extra-line); text-underline-offset: 3px; }
del { background: var(--lack); text-decoration: underline 2px dotted var(--lack-line); text-underline-offset: 3px; }
ins, del { border-radius: .15rem; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dt { padding: 0; } }
@media print { form { display: none !important; } article { break-inside: avoid; } dd.source { max-height: none; } }
"""

SCRIPT = """
const list = document.getElementById("rows"), form = document.getElementById("tools"), rows = [...list.children];
const value = (row, by) => by === "line" ? +row.dataset.line : by === "length" ? +row.dataset.length
  : +row.dataset.scores.split(" ")[by];
function show() {
  const { by, down, language, differing, words } = form.elements;
  const asked = words.value.toLowerCase(), sign = down.value === "down" ? -1 : 1;
  let shown = 0;
  rows.sort((a, b) => sign * (value(a, by.value) - value(b, by.value)) || a.dataset.line - b.dataset.line);
  for (const row of rows) {
    row.hidden = (language && language.value && row.dataset.language !== language.value)
      || (differing.checked && row.dataset.same === "yes")
      || (asked && !row.querySelector("dl").textContent.toLowerCase().includes(asked));
    shown += !row.hidden;
  }
  list.append(...rows);
  form.elements.count.value = shown === rows.length ? `${shown} shown` : `${shown} of ${rows.length}`;
}
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
form.hidden = false;
show();
"""
