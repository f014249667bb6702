// Plots as inline SVG. Colours are CSS classes ("c0" ...), so that the page's light and dark
// palettes apply.
#pragma once

#include <string>
#include <vector>

namespace facet {

enum class Mark { line, circle, square, diamond, triangle };

struct PlotPoint {
  double x = 0.0, y = 0.0;
  std::string label;    // beside the mark, may be empty
  std::string title;    // shown while the pointer is on it
  double error = 0.0;   // half length of a vertical bar
  double radius = 5.5;  // of a circle
};

struct PlotSeries {
  std::string name;  // in the legend when not empty
  int colour = 0;    // 0 ... 5
  Mark mark = Mark::circle;
  std::vector<PlotPoint> points;
  bool joined = false;     // a line through the marks
  std::string title = {};  // of a line without a name in the legend
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
  bool logarithmic = false;               // both axes; values above 0
  std::vector<std::string> x_names = {};  // x = 0, 1 ... are these words
  bool product = false;                   // colours and level curves of x * y behind the marks
};

std::string render_svg(const Plot& plot);

// Horizontal bars from 0 to `full`.
struct Bar {
  std::string label;
  double value = 0.0;
  int colour = 0;
};
struct BarScale {
  double full = 100.0;
  int digits = 2;
  const char* unit = "%";
};
std::string render_bars(const std::string& title, const std::vector<Bar>& bars,
                        const BarScale& scale = {});

// Values in [0, 1] as a square of colours, the first row at the bottom.
std::string render_heatmap(const std::string& title, const std::string& axis,
                           const std::vector<std::vector<double>>& rows);
// Viridis (van der Walt and Smith 2015), of which all common kinds of colour vision see the order.
std::string viridis(double value);  // in [0, 1] -> "#rrggbb"

std::string html_escape(const std::string& text);
// At most `count` points, keeping the first and last: means over equal runs of points.
std::vector<PlotPoint> thin_out(const std::vector<PlotPoint>& points, size_t count);

}  // namespace facet
