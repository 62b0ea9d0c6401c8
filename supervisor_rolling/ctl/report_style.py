"""The style of the page that ``report`` makes: light, dark, narrow and printed.

Bars differ by pattern as well as by colour, and the colours are those that the colour-blind can tell apart. Text has a
contrast of at least 4.5, a bar of at least 3, in both themes.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #171b21; --muted: #545d69; --edge: #d5dae1;
  --grid: #e6e9ee; --link: #0a55b8; --focus: #0a55b8; --good: #0b6e4b; --bad: #b00024; --bad-card: #fdf1f2;
  --draining: #9d6fe0; --restarting: #3a4350; --warming: #cc6a00; --ready: #0a62ad; --failed: #b00024;
  --down: #6b7480; --other: #6b7480; --old: #868e96; --new: #0f8a5f; --spark: #b85f00; --area: #0f8a5f2b }
@media screen and (prefers-color-scheme: dark) { :root { --page: #0d1116; --card: #141a21; --text: #e7ebf0;
  --muted: #9ba7b4; --edge: #2e3742; --grid: #222a33; --link: #7ab7ff; --focus: #7ab7ff; --good: #4fd3a1;
  --bad: #ff8091; --bad-card: #2a151a; --draining: #b48cf5; --restarting: #c3ccd6; --warming: #e58a1f;
  --ready: #2a73b8; --failed: #f0405c; --down: #8b95a1; --other: #8b95a1; --old: #737d89; --new: #27b583;
  --spark: #e58a1f; --area: #27b58333 } }
@media (prefers-contrast: more) { :root { --muted: var(--text); --edge: var(--text); --good: var(--text) } }
* { box-sizing: border-box }
html { scroll-padding-top: 9rem; -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums }
main, footer { max-width: 90rem; margin: 0 auto; padding: 1.75rem clamp(.75rem, 3vw, 2.5rem) 0 }
footer { padding-bottom: 2rem; color: var(--muted); font-size: .875rem }
h1 { font-size: clamp(1.4rem, 1rem + 1.6vw, 2.1rem); line-height: 1.2; letter-spacing: -.01em; margin: .35rem 0 .9rem;
  overflow-wrap: anywhere; text-wrap: balance }
h2 { font-size: 1.15rem; margin: 0 0 .75rem } h3 { font-size: 1rem; margin: 1rem 0 .25rem }
a { color: var(--link) }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 1px; border-radius: 4px }
code { font: .9em/1.5 ui-monospace, monospace; background: var(--page); border: 1px solid var(--edge);
  border-radius: 4px; padding: .05em .35em; overflow-wrap: anywhere }
bdi { overflow-wrap: anywhere }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
.kicker { margin: 0; color: var(--muted) }
.badge { display: inline-block; padding: .05rem .6rem; margin-right: .4rem; border: 1.5px solid; border-radius: 1rem;
  font-weight: 600; color: var(--text) }
.badge.done { color: var(--good) } .badge.failed { color: var(--bad) }
dl, dd, dt { margin: 0 }
.meta { display: flex; flex-wrap: wrap; gap: .2rem 1.75rem } .meta div { display: flex; gap: .5rem; min-width: 0 }
.meta dt { color: var(--muted); white-space: nowrap } .meta dd { overflow-wrap: anywhere }
.facts { display: grid; margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(10.5rem, 45%), 1fr)); gap: .75rem }
.facts div, .picture, .trouble, .tables { background: var(--card); border: 1px solid var(--edge); border-radius: 10px }
.facts div { padding: .8rem 1rem } .facts dt, .facts span { color: var(--muted); font-size: .875rem }
.facts b { display: block; font-size: 1.4rem; line-height: 1.35; font-weight: 650 }
.facts span { display: block; overflow-wrap: anywhere }
.trouble { margin: 1.5rem 0 0; padding: 1rem 1.25rem; border-left: 6px solid var(--muted); overflow-wrap: anywhere }
.trouble.bad { background: var(--bad-card); border-color: var(--bad) }
.trouble h2 { margin: 0 0 .25rem } .trouble p { margin: .25rem 0 }
.trouble ul { margin: .25rem 0; padding-left: 1.25rem }
.trouble + .picture { margin-top: 1.5rem } .picture p { margin: 0 }
.picture, .tables { padding: 1.1rem 1.25rem; margin: 0 0 1.5rem }

.legend { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: .15rem 1.5rem;
  list-style: none; margin: 0 0 1rem; padding: 0; font-size: .875rem; color: var(--muted) }
.legend li { display: grid; grid-template-columns: 2rem 5.2rem 1fr; align-items: center; gap: .6rem }
.legend b { color: var(--text); font-weight: 600 } .legend i { position: static; width: 100% }

i { position: absolute; bottom: 5px; height: 16px; min-width: 3px; background-color: var(--card);
  border: 1px solid var(--c); border-radius: 2px }
.draining { --c: var(--draining) } .restarting { --c: var(--restarting) } .warming { --c: var(--warming) }
.ready { --c: var(--ready) } .failed { --c: var(--failed) } .down { --c: var(--down) }
.other { --c: var(--other) } .old { --c: var(--old) } .new { --c: var(--new) }
i.draining { background-image: repeating-linear-gradient(135deg, var(--c) 0 4px, transparent 4px 7px) }
i.restarting { background-color: var(--c) }
i.warming { background: radial-gradient(circle at 3px 3px, var(--card) 1.1px, transparent 1.6px) 0 0/6px 6px var(--c) }
i.ready { background-image: repeating-linear-gradient(90deg, var(--c) 0 3px, transparent 3px 6px) }
i.failed { background-image: repeating-linear-gradient(45deg, var(--c) 0 2px, transparent 2px 7px),
  repeating-linear-gradient(135deg, var(--c) 0 2px, transparent 2px 7px); border-width: 2px }
i.down { border-style: dashed }
i.other { border-style: dotted }
i.old, i.new { border: 0; border-radius: 0; height: 2px; background-color: var(--c) }
i.new { height: 5px } .track i.new { border-radius: 0 2px 2px 0 }

.row { display: grid; grid-template-columns: var(--name) minmax(0, 1fr) 6.25rem 17.5rem; column-gap: 1rem;
  align-items: center }
.axis { position: sticky; top: 0; z-index: 2; background: var(--card); padding-top: .4rem; font-size: .8125rem;
  color: var(--muted); border-bottom: 1px solid var(--edge) }
.steps { height: 3.6rem; background: repeating-linear-gradient(90deg, var(--grid) 0 1px, transparent 1px var(--step)) }
.steps svg { display: block; width: 100%; height: 100%; overflow: visible }
.area { fill: var(--area) } .line { fill: none; stroke: var(--new); stroke-width: 2 }
.available .name { display: flex; justify-content: space-between; height: 100%; align-items: center }
.scale { display: flex; flex-direction: column; justify-content: space-between; height: 100%; text-align: right;
  line-height: 1 } .scale b { font-weight: 400 }
.available .away { align-self: start; margin-top: calc(3.2rem * var(--least) - .3rem) }
.ticks { position: relative; height: 1.7rem }
.ticks span { position: absolute; bottom: .15rem; transform: translateX(-50%); white-space: nowrap }
.ticks span:first-child { transform: none }
.times { align-items: end } .times > span:not(.ticks) { padding-bottom: .15rem; line-height: 1.25 }

.lanes { list-style: none; margin: 0; padding: 0 } .lanes > li { border-bottom: 1px solid var(--grid) }
.lanes summary { position: relative; grid-template-rows: minmax(34px, auto); cursor: pointer; list-style: none }
.lanes summary::-webkit-details-marker { display: none }
.lanes summary:hover { background: var(--page) } .lanes summary:focus-visible { outline-offset: -2px }
.lanes .name { position: relative; padding-left: 1.1em; white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
  font-weight: 600; line-height: 24px }
.lanes .name::before { content: "\\25B8"; content: "\\25B8" / ""; position: absolute; left: 0; color: var(--muted);
  font-weight: 400 }
[open] > summary .name::before { content: "\\25BE"; content: "\\25BE" / "" }
[open] > summary .name { white-space: normal; overflow-wrap: anywhere }
.track { position: relative; align-self: stretch; grid-area: 1/2 }
.row .track { background: linear-gradient(var(--old) 0 0) 0 calc(100% - 5px)/100% 2px no-repeat,
  repeating-linear-gradient(90deg, var(--grid) 0 1px, transparent 1px var(--step)) }
.words { position: relative; grid-area: 1/2; font-size: .8125rem; line-height: 1.25; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; color: var(--muted); padding: 0 6px 3px; pointer-events: none }
.words.before { text-align: right }
.words.below { grid-area: 2/2/3/5; padding: 0 0 4px; white-space: normal; overflow-wrap: anywhere }
.bad .words, .bad .name, .sign { color: var(--bad) } .bad > details > summary { background: var(--bad-card) }
.lanes .away { text-align: right; padding: 0 .4rem; border-radius: 3px; min-height: 1.5em;
  background: linear-gradient(var(--edge) 0 0) 100% 0/var(--share, 0) 100% no-repeat }
.warm { display: flex; align-items: center; gap: .6rem; font-size: .8125rem; color: var(--muted); line-height: 1.2 }
.warm svg { flex: 0 0 84px; width: 84px; height: 21px; border-bottom: 1px solid var(--edge) }
.warm path { stroke: var(--spark); stroke-width: 5; fill: none }
.axis .away { text-align: right; padding-right: .4rem } .available .away { white-space: nowrap }

.more { padding: .4rem 0 .9rem 1.1em; font-size: .875rem }
.stages { list-style: none; margin: 0 0 .5rem; padding: 0 }
.stages li { display: grid; gap: 0 1rem; align-items: center;
  grid-template-columns: calc(var(--name) - 1.1em) minmax(4rem, 1fr) 6.25rem 17.5rem; min-height: 26px }
.stages i, .many .stages i { position: relative; bottom: 0; height: 14px }
.stages b { font-weight: 400 } .stages li > span:first-of-type { text-align: right; padding-right: .4rem }
.stages li > span:last-child { color: var(--muted) }
li:target > details > summary { box-shadow: inset 4px 0 0 var(--focus) }
.skip { position: absolute; left: -999em } .skip:focus { position: static; display: inline-block; margin: .5rem 0 }

.whole { margin-bottom: 1rem }
.overview { margin: 0; font-size: .8125rem; color: var(--muted) }
.overview svg { display: block; width: 100%; height: clamp(10rem, 34vh, 22rem); border-radius: 4px;
  border: 1px solid var(--edge) } .overview path { stroke: var(--c); stroke-width: 1.15; fill: none }
.overview .new { stroke-opacity: .3 } .overview .failed { stroke-width: var(--bold) }
.whole nav { display: flex; gap: .75rem; font-size: .875rem; margin-top: .4rem }
.whole nav span { flex: none; line-height: 1.75rem; color: var(--muted) }
.whole a { display: inline-block; line-height: 1.75rem }
.whole ul { display: flex; flex-wrap: wrap; gap: 0 .9rem; list-style: none; margin: 0; padding: 0; min-width: 0 }
.many .lanes summary { grid-template-rows: minmax(24px, auto); font-size: .8125rem }
.many .words { position: absolute; width: 1px; height: 1px; clip-path: inset(50%); padding: 0 !important }
.many .lanes summary:focus-visible .words, .many [open] > summary .words { position: relative; width: auto;
  height: auto; clip-path: none; grid-area: 2/2; text-align: left; padding: 0 0 4px !important; white-space: normal }
.many .lanes .warm { white-space: nowrap; overflow: hidden }
 .many i { height: 12px; bottom: 4px } .many .legend i { height: 16px }
.many i.new { height: 4px } .many i.old { height: 2px }

.tables { content-visibility: auto; contain-intrinsic-size: auto var(--tall) }
.many .lanes > li { content-visibility: auto; contain-intrinsic-size: auto 25px }
.wide { overflow-x: auto; margin-bottom: 1rem } .wide table { width: 100% }
table { border-collapse: collapse; font-size: .8125rem }
caption { text-align: left; color: var(--muted); padding-bottom: .5rem }
th, td { padding: .25rem .3rem; text-align: right; border-bottom: 1px solid var(--grid); vertical-align: top }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom }
tbody th { text-align: left; min-width: 6rem }
.wide td { white-space: nowrap } .wide th:first-child { text-align: left; padding-left: 0 }
.wide td:nth-child(2), .wide td:nth-child(15) { white-space: normal } .wide td:nth-child(15) { width: 8.5rem }
.wide td:nth-child(3), .wide th:nth-child(3) { text-align: left;
  min-width: 7.5rem; overflow-wrap: anywhere; white-space: normal }
@media screen and (max-width: 74rem) { .wide thead { display: none }
  .wide table, .wide caption, .wide tbody { display: block }
  .wide tr { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .4rem 0; border-bottom: 1px solid var(--grid) }
  .wide :is(th, td):nth-child(n) { border: 0; padding: 0; text-align: left; min-width: 0; width: auto }
  .wide th { flex: 0 0 100% }
  .wide td:empty { display: none } .wide td::before { color: var(--muted) } }
.changes { margin-top: .5rem }

@media (max-width: 78rem) { .words.words { grid-area: 2/2; padding: 0 0 4px !important; text-align: left;
  white-space: normal } .ticks span:nth-child(even) { display: none } }
@media (max-width: 60rem) { .row, .stages li { grid-template-columns: var(--name) minmax(0, 1fr) 5.5rem }
  .times .warm { display: none } .lanes .warm { grid-area: 3/2/4/4; padding-bottom: 4px }
  .many .lanes .warm { display: none }
  .stages li > span:last-child { grid-column: 2/4; padding-bottom: .3rem } }
@media (max-width: 40rem) { .picture, .tables { padding: .9rem .75rem } .legend { grid-template-columns: 1fr }
  .facts b { font-size: 1.2rem }
  .row, .stages li { grid-template-columns: minmax(0, 1fr) auto; column-gap: .75rem }
  .row > .name { grid-area: 1/1 } .lanes .away { grid-area: 1/2 }
  .row .track, .ticks, .steps { grid-area: 2/1/3/3 } .row .track { height: 26px }
  .words.words { grid-area: 3/1/4/3; white-space: normal; padding: 2px 0 3px !important; text-align: left !important }
  .lanes .warm { grid-area: 4/1/5/3 }
  .scale, .times .away { display: none } .available .away { grid-area: 1/2; margin: 0 } .times .name { display: none }
  .steps { height: 2.6rem } .many .words { grid-area: 3/1/4/3 } .whole nav { display: block }
  .many .lanes summary:focus-visible .words, .many [open] > summary .words { grid-area: 3/1/4/3 } }
@media (max-height: 30rem) { .axis { position: static } }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth } }
@media (forced-colors: active) { i, svg { forced-color-adjust: none } }
@media print { :root { --page: #fff } html { font-size: 10px } body { font-size: 10px } main, footer { max-width:
  none; padding: 0 }
  .axis { position: static } .skip, .whole nav { display: none } .lanes > li, tr, .facts div { break-inside: avoid }
  .lanes > li, .tables { content-visibility: visible }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact } .wide { overflow: visible }
  table { font-size: 8px } th, td { padding: .1rem .3rem } tbody th { min-width: 0 } }
"""
