// Plots as inline SVG. Colours are CSS classes ("c0" ...), so that the page's light and dark
// palettes apply.
#pragma once

#include <string>
#include <vector>

namespace facet {

enum class Mark { line, circle, square, diamond, triangle };

struct PlotPoint {
  double x = 0.0, y = 0.0;
  std::string label;   // beside the mark, may be empty
  std::string title;   // shown while the pointer is on it
  double error = 0.0;  // half length of a vertical bar
};

struct PlotSeries {
  std::string name;  // in the legend when not empty
  int colour = 0;    // 0 ... 5
  Mark mark = Mark::circle;
  std::vector<PlotPoint> points;
};

struct PlotLine {
  double y = 0.0;
  std::string label;
};

struct Plot {
  std::string title, x_label, y_label;
  std::vector<PlotSeries> series;
  std::vector<PlotLine> lines;  // horizontal
  int width = 460, height = 320;
  bool logarithmic = false;  // both axes; values above 0
};

std::string render_svg(const Plot& plot);

// Horizontal bars from 0 to 100 percent.
struct Bar {
  std::string label;
  double percent = 0.0;
  int colour = 0;
};
std::string render_bars(const std::string& title, const std::vector<Bar>& bars);

std::string html_escape(const std::string& text);
// At most `count` points, keeping the first and last: means over equal runs of points.
std::vector<PlotPoint> thin_out(const std::vector<PlotPoint>& points, size_t count);

}  // namespace facet
