"""How the report looks: in light, in dark, on paper, and in a narrow window."""

from __future__ import annotations

# No script, no other address: said to the browser too.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

# The severities' colours are those of the curves (Okabe and Ito); each is written out as well.
STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #5c5c5c; --paper: #fff; --line: #d8d8d8; --card: #f6f6f6;
  --link: #0060a8; --good: #00704f; --bad: #a84800; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a8a8a8; --paper: #1b1b1b; --line: #454545; --card: #262626; --link: #7cc0f5;
    --good: #4fc79f; --bad: #f09a57; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.2rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p { margin: .3rem 0; } a { color: var(--link); } .soft { color: var(--soft); } .good { color: var(--good); }
.bad { color: var(--bad); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .4rem .7rem; }
dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; } td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th.name, td.words { min-width: 8rem; max-width: 34rem; overflow-wrap: anywhere; } th.name { color: var(--ink); }
td small { display: block; color: var(--soft); }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: .8rem; }
.steps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: .8rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem;
  break-inside: avoid; min-width: 0; }
figure figure { border: 0; padding: .4rem 0 0; }
figcaption { font-size: .87rem; margin-bottom: .3rem; } figure figure figcaption { color: var(--soft); }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.curves img { width: 100%; }
.badge { display: inline-block; border-radius: 3px; padding: 0 .4rem; border: 2px solid var(--soft);
  font-size: .82rem; white-space: nowrap; }
.critical { border-color: #D55E00; } .warning { border-color: #E69F00; } .info { border-color: #56B4E9; }
.firing { font-weight: 700; } .over { border-style: dashed; }
ul.plain { margin: 0; padding: 0; list-style: none; } code { font-size: .95em; }
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --line: #bbb; --card: #fff; --link: #000; --good: #000;
    --bad: #000; }
  body { max-width: none; padding: 0; font-size: 11px; } h2 { break-after: avoid; } tr { break-inside: avoid; }
  .scroll { overflow: visible; }
}
"""
