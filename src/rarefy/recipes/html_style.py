"""The look of the report page: readable on a phone and on a desk, in light and in dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6472; --line: #d8dce3; --page: #ffffff; --card: #f6f7f9;
  --good: #14713d; --bad: #b3261e; --mark: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b2; --line: #363d49; --page: #14171c;
  --card: #1c2027; --good: #5fd08c; --bad: #ff8a80; --mark: #82b1ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p, li { max-width: 46rem; } .soft { color: var(--soft); font-size: .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.25; } .card span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; min-width: 100%; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child, .text { text-align: left; }
tr.ours td { color: var(--mark); font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
figure { margin: .5rem 0; overflow-x: auto; }
figure svg { width: 100%; min-width: 36rem; height: auto; color: var(--ink); }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.sides ol { margin: .3rem 0; padding-left: 1.2rem; } .sides li { font-size: .9rem; margin-bottom: .5rem; }
details summary { cursor: pointer; color: var(--soft); }
"""
