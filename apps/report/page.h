// Style and script of the project's pages. Colours are Okabe and Ito's, which all common kinds of
// colour vision tell apart; dark variants are lighter shades of the same hues.
#pragma once

#include <fmt/format.h>

#include <iterator>
#include <string>

#include "apps/report/plot.h"

namespace facet {

inline constexpr const char* kReportStyle = R"css(
:root { color-scheme: light dark; --back: #fff; --text: #1a1a1a; --soft: #5c5c5c; --line: #dcdcdc;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a05195; --c4: #8a6d00; --c5: #555; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e8e8e8; --soft: #a9adb3;
  --line: #353a40; --c0: #56b4e9; --c1: #f0894d; --c2: #3fc79a; --c3: #d69bc9; --c4: #e0c341;
  --c5: #b5b5b5; } }
@media print { :root { --back: #fff; --text: #000; --soft: #444; --line: #ccc; --c0: #0072b2;
  --c1: #d55e00; --c2: #009e73; --c3: #a05195; --c4: #8a6d00; --c5: #555; }
  figure, table, section > p { break-inside: avoid; } details { display: block; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 62rem; background: var(--back);
  color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .4rem; }
p { max-width: 44rem; } .soft { color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr));
  gap: 1rem; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); gap: 1rem; }
figure { margin: 0; max-width: 34rem; } figcaption { color: var(--soft); font-size: .9rem; }
svg { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .title { fill: var(--text); font-weight: 600; font-size: 14px; }
svg .name { fill: var(--text); font-size: 11.5px; } svg .note { font-size: 11.5px; }
.grid { stroke: var(--line); stroke-width: 1; fill: none; }
.level { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 6 4; }
.curve { fill: none; stroke-width: 2; } .d1 { stroke-dasharray: 7 3; } .d2 { stroke-dasharray: 2 3; }
.d3 { stroke-dasharray: 9 3 2 3; } .d4 { stroke-dasharray: 4 2; } .d5 { stroke-dasharray: 1 2; }
.error { stroke-width: 1.5; opacity: .6; } .mark { stroke: var(--back); stroke-width: 1.5; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
.curve, .error { stroke: var(--c); } .mark, .bar { fill: var(--c); }
.contour { fill: none; stroke: var(--text); stroke-width: 1; opacity: .35; }
#tip { position: absolute; padding: .2rem .5rem; border: 1px solid var(--line); font-size: .85rem;
  background: var(--back); color: var(--text); max-width: 18rem; }
@media print { #tip { display: none; } }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--back); }
th { cursor: pointer; user-select: none; } th[aria-sort=ascending]::after { content: " \25b2"; }
th[aria-sort=descending]::after { content: " \25bc"; }
pre { overflow-x: auto; font-size: .82rem; line-height: 1.4; border: 1px solid var(--line);
  padding: .8rem; }
)css";

// Tables are sorted by a click (or Enter) on a heading.
inline constexpr const char* kReportScript = R"js(
document.querySelectorAll('table.sortable').forEach(function (table) {
  table.querySelectorAll('th').forEach(function (th, column) {
    function sort() {
      var up = th.getAttribute('aria-sort') === 'descending';
      table.querySelectorAll('th').forEach(function (o) { o.removeAttribute('aria-sort'); });
      th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      var body = table.tBodies[0], key = function (row) {
        var text = row.cells[column].textContent, number = parseFloat(text);
        return isNaN(number) ? text : number;
      };
      Array.from(body.rows).sort(function (a, b) {
        var x = key(a), y = key(b), order = x < y ? -1 : x > y ? 1 : 0;
        return up ? order : -order;
      }).forEach(function (row) { body.appendChild(row); });
    }
    th.tabIndex = 0;
    th.addEventListener('click', sort);
    th.addEventListener('keydown', function (e) { if (e.key === 'Enter') sort(); });
  });
});
// A tap shows what a pointer sees by resting on a mark.
document.addEventListener('click', function (e) {
  var old = document.getElementById('tip');
  if (old) old.remove();
  var title = e.target.closest('svg') && e.target.querySelector('title');
  if (!title) return;
  var tip = document.createElement('div');
  tip.id = 'tip';
  tip.textContent = title.textContent;
  tip.style.left = Math.max(4, Math.min(e.pageX, innerWidth - 300)) + 'px';
  tip.style.top = (e.pageY + 12) + 'px';
  document.body.appendChild(tip);
});
)js";

// HTML or SVG that grows line by line.
class Markup {
 public:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
    text_ += '\n';
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

// One file that needs nothing else.
class Page : public Markup {
 public:
  void raw(const std::string& text) { add("{}", text); }
  void plot(const std::string& svg) { add("<figure>{}</figure>", svg); }
  // Everything up to and with the heading, and everything after the last line.
  void begin(const std::string& title) {
    raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    add("<title>{0}</title><style>{1}</style></head><body><h1>{0}</h1>", html_escape(title),
        kReportStyle);
  }
  std::string finish() {
    add("<script>{}</script></body></html>", kReportScript);
    return take();
  }
};

}  // namespace facet
