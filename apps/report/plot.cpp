#include "apps/report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/report/page.h"
#include "tensor/text.h"

namespace facet {
namespace {

constexpr double kLeft = 58, kRight = 16, kTop = 34, kBottom = 46, kLegend = 20;

// Range of an axis and the round numbers on it. A logarithmic one is an axis of powers of ten.
struct Axis {
  double low = 0.0, high = 1.0, step = 0.5;
  bool logarithmic = false;

  Axis(double smallest, double largest, bool logarithmic_ = false) : logarithmic(logarithmic_) {
    if (!(smallest <= largest)) smallest = 0.0, largest = 1.0;
    if (logarithmic) {
      low = std::floor(std::log10(smallest) - 0.05);
      high = std::ceil(std::log10(largest) + 0.05);
      step = 1.0;
      return;
    }
    double span = largest - smallest;
    if (span <= 0) span = std::max(std::abs(largest) * 0.1, 1e-3);
    low = smallest - 0.06 * span;
    high = largest + 0.06 * span;
    // 1, 2 or 5 times a power of ten, for about five numbers.
    const double raw = (high - low) / 5;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    const double fraction = raw / power;
    step = power * (fraction < 1.5 ? 1 : fraction < 3.5 ? 2 : fraction < 7.5 ? 5 : 10);
  }
  std::vector<double> ticks() const {
    std::vector<double> list;
    for (double i = std::ceil(low / step); i * step <= high; ++i) list.push_back(i * step);
    return list;
  }
  // 0 ... 1 from end to end.
  double place(double value) const {
    return ((logarithmic ? std::log10(value) : value) - low) / (high - low);
  }
  double tick_place(double tick) const { return (tick - low) / (high - low); }
  std::string text(double value) const {
    if (logarithmic) return fmt::format("{:g}", std::pow(10.0, value));
    const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
    return fmt::format("{:.{}f}", std::abs(value) < step * 1e-6 ? 0.0 : value, digits);
  }
};

// Roughly, in the fonts of the page: no need to be exact, labels only keep out of each other's way.
double text_width(const std::string& text) {
  return 6.9 * static_cast<double>(characters(text));
}

struct Box {
  double x0, y0, x1, y1;
  bool overlaps(const Box& o) const { return x0 < o.x1 && o.x0 < x1 && y0 < o.y1 && o.y0 < y1; }
};

std::string mark_shape(Mark mark, double x, double y, double radius = 5.5) {
  switch (mark) {
    case Mark::square:
      return fmt::format(R"(<rect x="{:.1f}" y="{:.1f}" width="10" height="10")", x - 5, y - 5);
    case Mark::diamond:
      return fmt::format(R"(<path d="M{:.1f} {:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5z")", x, y - 6.5);
    case Mark::triangle:
      return fmt::format(R"(<path d="M{:.1f} {:.1f}l6.5 11l-13 0z")", x, y - 6.5);
    default: return fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="{:.4g}")", x, y, radius);
  }
}

class Painter {
 public:
  explicit Painter(const Plot& plot) : plot_(plot), x_(0, 0), y_(0, 0) {
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    for (const PlotSeries& series : plot.series)
      for (const PlotPoint& p : series.points) {
        x0 = std::min(x0, p.x), x1 = std::max(x1, p.x);
        y0 = std::min(y0, p.y - p.error), y1 = std::max(y1, p.y + p.error);
      }
    for (const PlotLine& line : plot.lines) y0 = std::min(y0, line.y), y1 = std::max(y1, line.y);
    x_ = Axis(x0, x1, plot.logarithmic);
    y_ = Axis(y0, y1, plot.logarithmic);
    if (!plot.x_names.empty()) {
      x_.low = -0.4;
      x_.high = static_cast<double>(plot.x_names.size()) - 0.6;
    }
    bottom_ = plot.height - kBottom - kLegend;
    place_legend();
  }

  std::string paint() {
    const double more = legend_.empty() ? 0 : legend_.back().y - (plot_.height - 8);
    svg_.add(R"(<svg viewBox="0 0 {} {}" role="img" aria-label="{}">)", plot_.width,
             plot_.height + more, html_escape(plot_.title));
    svg_.add(R"(<text class="title" x="{}" y="18">{}</text>)", kLeft, html_escape(plot_.title));
    if (plot_.product) product();
    frame();
    if (plot_.product) level_curves();
    for (const PlotLine& line : plot_.lines) {
      svg_.add(R"(<path class="level" d="M{} {:.1f}H{}"/>)", kLeft, py(line.y), right());
      svg_.add(R"(<text class="note" x="{}" y="{:.1f}" text-anchor="end">{}</text>)", right() - 4,
               py(line.y) - 4, html_escape(line.label));
    }
    for (const PlotSeries& series : plot_.series) {
      if (series.mark == Mark::line || series.joined) curve(series);
      if (series.mark != Mark::line) marks(series);
    }
    labels();
    legend();
    svg_.add("</svg>");
    return svg_.take();
  }

 private:
  double right() const { return plot_.width - kRight; }
  double at_x(double place) const { return kLeft + place * (right() - kLeft); }
  double at_y(double place) const { return bottom_ - place * (bottom_ - kTop); }
  double px(double x) const { return at_x(x_.place(x)); }
  double py(double y) const { return at_y(y_.place(y)); }

  void frame() {
    for (const double t : y_.ticks()) {
      const double y = at_y(y_.tick_place(t));
      svg_.add(R"(<path class="grid" d="M{} {:.1f}H{}"/>)", kLeft, y, right());
      svg_.add(R"(<text x="{}" y="{:.1f}" text-anchor="end">{}</text>)", kLeft - 6, y + 4,
               y_.text(t));
    }
    for (size_t i = 0; i < plot_.x_names.size(); ++i)
      svg_.add(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>)",
               px(static_cast<double>(i)), bottom_ + 16, html_escape(plot_.x_names[i]));
    for (const double t : plot_.x_names.empty() ? x_.ticks() : std::vector<double>()) {
      const double x = at_x(x_.tick_place(t));
      svg_.add(R"(<path class="grid" d="M{:.1f} {}V{}"/>)", x, kTop, bottom_);
      svg_.add(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>)", x, bottom_ + 16,
               x_.text(t));
    }
    svg_.add(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>)", (kLeft + right()) / 2,
             bottom_ + 34, html_escape(plot_.x_label));
    svg_.add(
        R"s(<text transform="translate(13 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>)s",
        (kTop + bottom_) / 2, html_escape(plot_.y_label));
  }

  // Between the four corners the product has its extremes at two of them.
  std::pair<double, double> product_range() const {
    const auto [low, high] =
        std::minmax({x_.low * y_.low, x_.low * y_.high, x_.high * y_.low, x_.high * y_.high});
    return {low, high};
  }
  void product() {
    constexpr int kCells = 24;
    const auto [low, high] = product_range();
    const double w = (right() - kLeft) / kCells, h = (bottom_ - kTop) / kCells;
    for (int i = 0; i < kCells; ++i)
      for (int j = 0; j < kCells; ++j) {
        const double x = x_.low + (i + 0.5) / kCells * (x_.high - x_.low);
        const double y = y_.low + (j + 0.5) / kCells * (y_.high - y_.low);
        svg_.add(R"(<path fill="{}" opacity=".45" d="M{:.1f} {:.1f}h{:.1f}v{:.1f}h-{:.1f}z"/>)",
                 viridis((x * y - low) / (high - low)), kLeft + i * w, bottom_ - (j + 1) * h,
                 w + 0.2, h + 0.2, w + 0.2);
      }
  }
  void level_curves() {
    constexpr int kLevels = 5, kPoints = 40;
    const auto [low, high] = product_range();
    for (int level = 1; level <= kLevels; ++level) {
      const double value = low + (high - low) * level / (kLevels + 1);
      std::string path;
      double end_x = 0, end_y = 0;
      for (int i = 0; i <= kPoints; ++i) {
        const double x = x_.low + (x_.high - x_.low) * i / kPoints, y = value / x;
        if (x <= 0 || y < y_.low || y > y_.high) continue;
        path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", px(x), py(y));
        end_x = px(x), end_y = py(y);
      }
      if (path.empty()) continue;
      svg_.add(R"(<path class="contour" d="{}"/>)", path);
      svg_.add(R"(<text class="note" x="{:.1f}" y="{:.1f}" text-anchor="end">{:.3g}</text>)",
               std::max(end_x - 3, kLeft + 30), std::min(end_y - 3, bottom_ - 3), value);
    }
  }

  void curve(const PlotSeries& series) {
    std::string path;
    for (const PlotPoint& p : series.points)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", px(p.x), py(p.y));
    svg_.add(R"(<path class="curve c{} d{}" d="{}"><title>{}</title></path>)", series.colour,
             series.colour, path, html_escape(series.name.empty() ? series.title : series.name));
  }

  void marks(const PlotSeries& series) {
    for (const PlotPoint& p : series.points) {
      const double x = px(p.x), y = py(p.y);
      if (p.error > 0)
        svg_.add(R"(<path class="error c{}" d="M{:.1f} {:.1f}V{:.1f}"/>)", series.colour, x,
                 py(p.y - p.error), py(p.y + p.error));
      svg_.add(R"({} class="mark c{}"><title>{}</title></{}>)",
               mark_shape(series.mark, x, y, p.radius), series.colour, html_escape(p.title),
               series.mark == Mark::circle   ? "circle"
               : series.mark == Mark::square ? "rect"
                                             : "path");
      taken_.push_back({x - 6, y - 6, x + 6, y + 6});
    }
  }

  // Each label goes to the first place around its mark where nothing stands yet.
  void labels() {
    for (const PlotSeries& series : plot_.series)
      for (const PlotPoint& p : series.points) {
        if (p.label.empty()) continue;
        const double width = text_width(p.label), x = px(p.x), y = py(p.y);
        const double places[][2] = {{x + 9, y + 4},          {x - 9 - width, y + 4},
                                    {x - width / 2, y - 10}, {x - width / 2, y + 19},
                                    {x + 7, y - 9},          {x + 7, y + 17},
                                    {x - 7 - width, y - 9},  {x - 7 - width, y + 17}};
        const double* best = places[0];
        for (const auto& place : places) {
          const Box box{place[0], place[1] - 11, place[0] + width, place[1] + 3};
          const bool inside =
              box.x0 >= kLeft && box.x1 <= right() && box.y0 >= kTop && box.y1 <= bottom_;
          if (inside && std::none_of(taken_.begin(), taken_.end(),
                                     [&](const Box& other) { return box.overlaps(other); })) {
            best = place;
            break;
          }
        }
        taken_.push_back({best[0], best[1] - 11, best[0] + width, best[1] + 3});
        svg_.add(R"(<text class="name" x="{:.1f}" y="{:.1f}">{}</text>)", best[0], best[1],
                 html_escape(p.label));
      }
  }

  // The names below the plot, in as many rows as they need.
  void place_legend() {
    double x = kLeft, y = plot_.height - 8;
    for (const PlotSeries& series : plot_.series) {
      if (series.name.empty()) continue;
      const double wide = 36 + text_width(series.name);
      if (x > kLeft && x + wide - 14 > plot_.width) {
        x = kLeft;
        y += kLegend - 3;
      }
      legend_.push_back({&series, x, y});
      x += wide;
    }
    if (legend_.empty()) bottom_ += kLegend;
  }
  void legend() {
    for (const auto& [series, x, y] : legend_) {
      if (series->mark == Mark::line)
        svg_.add(R"(<path class="curve c{} d{}" d="M{:.1f} {:.1f}h18"/>)", series->colour,
                 series->colour, x, y - 4);
      else
        svg_.add(R"({} class="mark c{}"/>)", mark_shape(series->mark, x + 8, y - 4),
                 series->colour);
      svg_.add(R"(<text x="{:.1f}" y="{:.1f}">{}</text>)", x + 22, y, html_escape(series->name));
    }
  }

  const Plot& plot_;
  Axis x_, y_;
  struct LegendEntry {
    const PlotSeries* series;
    double x, y;
  };
  std::vector<LegendEntry> legend_;
  double bottom_ = 0;
  Markup svg_;
  std::vector<Box> taken_;
};

}  // namespace

std::string html_escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) switch (c) {
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '&': escaped += "&amp;"; break;
      case '"': escaped += "&quot;"; break;
      default: escaped += c;
    }
  return escaped;
}

std::string render_svg(const Plot& plot) {
  return Painter(plot).paint();
}

std::string render_bars(const std::string& title, const std::vector<Bar>& bars,
                        const BarScale& scale) {
  constexpr int kWidth = 460, kRow = 28, kLabel = 150;
  Markup svg;
  const int height = 34 + kRow * static_cast<int>(bars.size());
  svg.add(R"(<svg viewBox="0 0 {} {}" role="img" aria-label="{}">)", kWidth, height,
          html_escape(title));
  svg.add(R"(<text class="title" x="0" y="18">{}</text>)", html_escape(title));
  int y = 30;
  for (const Bar& bar : bars) {
    const std::string value = fmt::format("{:.{}f}{}", bar.value, scale.digits, scale.unit);
    const double length = std::clamp(bar.value / scale.full, 0.0, 1.0) * (kWidth - kLabel - 60);
    svg.add(R"(<text x="{}" y="{}" text-anchor="end">{}</text>)", kLabel - 8, y + 15,
            html_escape(bar.label));
    svg.add(
        R"(<rect class="bar c{}" x="{}" y="{}" width="{:.1f}" height="20"><title>{}: {}</title></rect>)",
        bar.colour, kLabel, y, length, html_escape(bar.label), value);
    svg.add(R"(<text x="{:.1f}" y="{}">{}</text>)", kLabel + 6 + length, y + 15, value);
    y += kRow;
  }
  svg.add("</svg>");
  return svg.take();
}

std::string render_heatmap(const std::string& title, const std::string& axis,
                           const std::vector<std::vector<double>>& rows) {
  constexpr double kSide = 220, kMargin = 46;
  const auto n = static_cast<double>(rows.size());
  const double cell = kSide / std::max(n, 1.0);
  Markup svg;
  svg.add(R"(<svg viewBox="0 0 {} {}" role="img" aria-label="{}">)", kSide + kMargin + 12,
          kSide + 26 + 38, html_escape(title));
  svg.add(R"(<text class="title" style="font-size:11px" x="{}" y="18">{}</text>)", kMargin,
          html_escape(title));
  for (size_t i = 0; i < rows.size(); ++i) {
    const double y = 26 + kSide - (static_cast<double>(i) + 1) * cell;
    for (size_t j = 0; j < rows[i].size(); ++j) {
      const double x = kMargin + static_cast<double>(j) * cell;
      svg.add(
          R"(<rect fill="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{} {} and {}: {:.3f}</title></rect>)",
          viridis(rows[i][j]), x, y, cell + 0.3, cell + 0.3, html_escape(axis), i + 1, j + 1,
          rows[i][j]);
      if (cell >= 36)
        svg.add(R"(<text x="{:.1f}" y="{:.1f}" text-anchor="middle" style="fill:{}">{:.2f}</text>)",
                x + cell / 2, y + cell / 2 + 4, rows[i][j] > 0.6 ? "#111" : "#fff", rows[i][j]);
    }
    const size_t step = std::max<size_t>(1, rows.size() / 8);
    if (i % step != 0) continue;
    svg.add(R"(<text x="{}" y="{:.1f}" text-anchor="end">{}</text>)", kMargin - 6, y + cell / 2 + 4,
            i + 1);
    svg.add(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>)",
            kMargin + (static_cast<double>(i) + 0.5) * cell, 26 + kSide + 15, i + 1);
  }
  svg.add(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>)", kMargin + kSide / 2,
          26 + kSide + 32, html_escape(axis));
  svg.add(R"s(<text transform="translate(14 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>)s",
          26 + kSide / 2, html_escape(axis));
  svg.add("</svg>");
  return svg.take();
}

std::string viridis(double value) {
  constexpr int kColours[][3] = {{68, 1, 84},    {71, 45, 123},  {59, 82, 139},
                                 {44, 114, 142}, {33, 145, 140}, {40, 174, 128},
                                 {94, 201, 98},  {173, 220, 48}, {253, 231, 37}};
  constexpr int kLast = 8;
  const double at = std::isfinite(value) ? std::clamp(value, 0.0, 1.0) * kLast : 0.0;
  const int below = std::min(static_cast<int>(at), kLast - 1);
  int mixed[3];
  for (int c = 0; c < 3; ++c)
    mixed[c] = static_cast<int>(std::lround(
        kColours[below][c] + (at - below) * (kColours[below + 1][c] - kColours[below][c])));
  return fmt::format("#{:02x}{:02x}{:02x}", mixed[0], mixed[1], mixed[2]);
}

std::vector<PlotPoint> thin_out(const std::vector<PlotPoint>& points, size_t count) {
  if (points.size() <= count) return points;
  std::vector<PlotPoint> thin;
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = i * points.size() / count, end = (i + 1) * points.size() / count;
    PlotPoint mean;
    for (size_t j = begin; j < end; ++j) mean.x += points[j].x, mean.y += points[j].y;
    mean.x /= static_cast<double>(end - begin);
    mean.y /= static_cast<double>(end - begin);
    thin.push_back(mean);
  }
  thin.front() = points.front();
  thin.back() = points.back();
  return thin;
}

}  // namespace facet
