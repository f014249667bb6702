#include "data/synthetic.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

#include "tensor/parallel.h"
#include "tensor/random.h"

namespace facet {
namespace {

constexpr double kPi = std::numbers::pi;

struct Color {
  double r, g, b;
};

Color random_color(RandomSequence& random) {
  return {random.uniform(), random.uniform(), random.uniform()};
}

double distance(const Color& a, const Color& b) {
  return std::fabs(a.r - b.r) + std::fabs(a.g - b.g) + std::fabs(a.b - b.b);
}

// A colour that can be told from `other`.
Color contrasting(const Color& other, RandomSequence& random) {
  Color color = random_color(random);
  while (distance(color, other) < 0.8) color = random_color(random);
  return color;
}

// A canvas of colours in [0, 1].
class Canvas {
 public:
  Canvas(int size, const Color& background)
      : size_(size), pixels_(static_cast<size_t>(size) * size, background) {}

  // Mixes `color` in with the weight cover(u, v), where u, v in [-1, 1] are the picture's axes.
  void paint(const std::function<double(double, double)>& cover, const Color& color) {
    for (int y = 0; y < size_; ++y)
      for (int x = 0; x < size_; ++x) {
        const double w =
            std::clamp(cover((2 * x + 1.0) / size_ - 1, (2 * y + 1.0) / size_ - 1), 0.0, 1.0);
        Color& p = pixels_[static_cast<size_t>(y) * size_ + x];
        p = {p.r + w * (color.r - p.r), p.g + w * (color.g - p.g), p.b + w * (color.b - p.b)};
      }
  }

  void write(double noise, RandomSequence& random, uint8_t* out) const {
    for (const Color& p : pixels_)
      for (const double v : {p.r, p.g, p.b}) {
        const double noisy = 255 * v + noise * random.normal();
        *out++ = static_cast<uint8_t>(std::clamp(noisy, 0.0, 255.0));
      }
  }

  double pixel() const { return 2.0 / size_; }  // side of one in picture units

 private:
  int size_;
  std::vector<Color> pixels_;
};

// ---- figures: signed distance (negative inside) in a frame where the figure has radius about 1

double polygon(double u, double v, int corners, double turn) {
  const double step = 2 * kPi / corners, angle = std::atan2(v, u) + turn;
  const double local = angle - step * std::round(angle / step);
  return std::hypot(u, v) * std::cos(local) - std::cos(kPi / corners);
}

double star(double u, double v) {
  const double angle = std::atan2(v, u), radius = 0.65 + 0.35 * std::cos(5 * angle);
  return std::hypot(u, v) - radius;
}

double box(double u, double v, double half_width, double half_height) {
  return std::max(std::fabs(u) - half_width, std::fabs(v) - half_height);
}

const std::vector<std::string> kFigures = {"disc",  "triangle", "square", "pentagon", "star",
                                           "cross", "ring",     "bar",    "crescent", "heart"};

double figure(int kind, double u, double v) {
  switch (kind) {
    case 0: return std::hypot(u, v) - 0.9;
    case 1: return polygon(u, v, 3, kPi / 2);
    case 2: return box(u, v, 0.8, 0.8);
    case 3: return polygon(u, v, 5, kPi / 2);
    case 4: return star(u, v);
    case 5: return std::min(box(u, v, 0.95, 0.28), box(u, v, 0.28, 0.95));
    case 6: return std::fabs(std::hypot(u, v) - 0.7) - 0.2;
    case 7: return box(u, v, 0.95, 0.3);
    case 8: return std::max(std::hypot(u, v) - 0.9, 0.75 - std::hypot(u - 0.45, v));
    default: {
      const double x = std::fabs(u), y = -v + 0.25 - 0.55 * std::sqrt(std::max(0.0, x));
      return std::hypot(x, y) - 0.75;
    }
  }
}

struct Pose {
  double x, y, radius, turn;
  bool outlined;
};

void paint_figure(Canvas& canvas, int kind, const Pose& pose, const Color& color) {
  const double c = std::cos(pose.turn), s = std::sin(pose.turn);
  canvas.paint(
      [&](double u, double v) {
        const double du = (u - pose.x) / pose.radius, dv = (v - pose.y) / pose.radius;
        double d = figure(kind, c * du + s * dv, c * dv - s * du) * pose.radius;
        if (pose.outlined) d = std::fabs(d + 0.09) - 0.09;
        return 0.5 - d / canvas.pixel();  // a one-pixel ramp at the edge
      },
      color);
}

// ---- textures

const std::vector<std::string> kTextures = {"stripes",      "checks",    "dots", "rings",
                                            "waves",        "bricks",    "grid", "spiral",
                                            "coarse noise", "fine noise"};

// Smooth noise: random values on a lattice, interpolated.
class LatticeNoise {
 public:
  LatticeNoise(int cells, RandomSequence& random) : cells_(cells) {
    for (int i = 0; i < (cells + 2) * (cells + 2); ++i) values_.push_back(random.uniform());
  }
  double operator()(double u, double v) const {
    const double x = (u + 1) / 2 * cells_, y = (v + 1) / 2 * cells_;
    const int i = std::clamp(static_cast<int>(x), 0, cells_),
              j = std::clamp(static_cast<int>(y), 0, cells_);
    const double fx = smooth(x - i), fy = smooth(y - j);
    const auto at = [&](int a, int b) {
      return values_[static_cast<size_t>(b * (cells_ + 2) + a)];
    };
    return (1 - fy) * ((1 - fx) * at(i, j) + fx * at(i + 1, j)) +
           fy * ((1 - fx) * at(i, j + 1) + fx * at(i + 1, j + 1));
  }

 private:
  static double smooth(double t) { return t * t * (3 - 2 * t); }
  int cells_;
  std::vector<double> values_;
};

double wave(double x) {
  return 0.5 + 2.5 * std::sin(x);
}  // clipped: soft-edged bands

std::function<double(double, double)> texture(int kind, RandomSequence& random) {
  const double turn = kind == 5 || kind == 6 ? random.uniform(-0.4, 0.4) : random.uniform(0, kPi);
  const double f = random.uniform(7, 14), phase = random.uniform(0, 2 * kPi);
  const double c = std::cos(turn), s = std::sin(turn);
  const double cx = random.uniform(-0.4, 0.4), cy = random.uniform(-0.4, 0.4);
  const auto rotated = [=](auto body) {
    return [=](double u, double v) { return body(c * u + s * v, c * v - s * u); };
  };
  switch (kind) {
    case 0: return rotated([=](double u, double) { return wave(f * u + phase); });
    case 1:
      return rotated([=](double u, double v) {
        return 0.5 + 4 * std::sin(f * u * 0.8 + phase) * std::sin(f * v * 0.8 + phase);
      });
    case 2:
      return rotated([=](double u, double v) {
        return 4 * (std::cos(f * u + phase) + std::cos(f * v + phase) - 0.9);
      });
    case 3:
      return [=](double u, double v) { return wave(1.4 * f * std::hypot(u - cx, v - cy) + phase); };
    case 4:
      return rotated([=](double u, double v) { return wave(f * u + 2 * std::sin(4 * v + phase)); });
    case 5:
      return rotated([=](double u, double v) {
        const double row = std::floor(f * v / 3), x = f * u / 5 + 0.5 * row;
        const double gap = std::min(std::fabs(f * v / 3 - std::round(f * v / 3)) * 3,
                                    std::fabs(x - std::round(x)) * 5);
        return 3.5 * gap - 0.6;
      });
    case 6:
      return rotated([=](double u, double v) {
        return 4 * (std::max(std::cos(f * u + phase), std::cos(f * v + phase)) - 0.75);
      });
    case 7:
      return [=](double u, double v) {
        return wave(f * std::hypot(u - cx, v - cy) + 2 * std::atan2(v - cy, u - cx) + phase);
      };
    default: {
      const LatticeNoise noise(kind == 8 ? 4 : 13, random);
      return [noise](double u, double v) { return 0.5 + 3 * (noise(u, v) - 0.5); };
    }
  }
}

// ---- digits: polylines in [-1, 1], y down

using Stroke = std::vector<std::pair<double, double>>;

Stroke arc(double cx, double cy, double rx, double ry, double from, double to) {
  Stroke stroke;
  for (int i = 0; i <= 14; ++i) {
    const double a = from + (to - from) * i / 14;
    stroke.emplace_back(cx + rx * std::cos(a), cy + ry * std::sin(a));
  }
  return stroke;
}

std::vector<Stroke> digit_strokes(int digit) {
  switch (digit) {
    case 0: return {arc(0, 0, .5, .8, 0, 2 * kPi)};
    case 1: return {{{-.3, -.5}, {.05, -.8}, {.05, .8}}};
    case 2: {
      Stroke s = arc(0, -.4, .5, .4, -kPi, .6);
      s.emplace_back(-.5, .8);
      s.emplace_back(.55, .8);
      return {s};
    }
    case 3: return {arc(-.05, -.4, .5, .4, -2.6, kPi / 2), arc(-.05, .4, .55, .4, -kPi / 2, 2.6)};
    case 4: return {{{.25, .8}, {.25, -.8}, {-.55, .3}, {.6, .3}}};
    case 5: {
      Stroke s{{.5, -.8}, {-.4, -.8}, {-.45, -.1}};
      for (const auto& p : arc(-.05, .3, .55, .5, -2.2, 2.5)) s.push_back(p);
      return {s};
    }
    case 6: return {{{.35, -.8}, {-.25, -.2}, {-.48, .35}}, arc(0, .35, .48, .45, 0, 2 * kPi)};
    case 7: return {{{-.5, -.8}, {.5, -.8}, {-.1, .8}}};
    case 8: return {arc(0, -.4, .4, .38, 0, 2 * kPi), arc(0, .4, .5, .42, 0, 2 * kPi)};
    default: return {{{.46, -.3}, {.4, .3}, {.15, .8}}, arc(0, -.35, .46, .42, 0, 2 * kPi)};
  }
}

double segment_distance(double x, double y, const std::pair<double, double>& a,
                        const std::pair<double, double>& b) {
  const double dx = b.first - a.first, dy = b.second - a.second;
  const double length = dx * dx + dy * dy;
  const double t =
      length > 0 ? std::clamp(((x - a.first) * dx + (y - a.second) * dy) / length, 0., 1.) : 0;
  return std::hypot(x - a.first - t * dx, y - a.second - t * dy);
}

// ---- the families

using Draw = std::function<void(int64_t kind, int size, RandomSequence& random, uint8_t* out)>;

// draw(i, ...) makes sample i of a family, numbered for its randomness.
Tensor draw_all(const SyntheticOptions& o, Split split, uint64_t family, const Draw& draw) {
  Tensor pixels = Tensor::empty({o.count, o.size, o.size, 3}, DType::u8);
  uint8_t* const out = pixels.data<uint8_t>();
  parallel_for(o.count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      RandomSequence random(random_key(o.seed, RandomPurpose::synthetic)
                                .child(family)
                                .child(static_cast<uint64_t>(split))
                                .child(static_cast<uint64_t>(i)));
      draw(i, o.size, random, out + i * o.size * o.size * 3);
    }
  });
  return pixels;
}

// Samples of all classes in turn; draw(kind, ...) makes one of a class.
DatasetPtr make_family(const char* name, uint64_t family, std::vector<std::string> classes,
                       const SyntheticOptions& o, Split split, const Draw& draw) {
  const auto kinds = static_cast<int64_t>(classes.size());
  Tensor labels = Tensor::empty({o.count}, DType::i64);
  for (int64_t i = 0; i < o.count; ++i) labels.data<int64_t>()[i] = i % kinds;
  const Tensor pixels =
      draw_all(o, split, family, [&](int64_t i, int size, RandomSequence& random, uint8_t* out) {
        draw(i % kinds, size, random, out);
      });
  return std::make_shared<ArrayDataset>(name, pixels, labels, std::move(classes));
}

void draw_shape(int64_t kind, int size, RandomSequence& random, uint8_t* out) {
  const Color back = random_color(random), front = contrasting(back, random);
  Canvas canvas(size, back);
  const double radius = random.uniform(0.4, 0.75), room = 1 - radius;
  const Pose pose{random.uniform(-room, room), random.uniform(-room, room), radius,
                  random.uniform(-0.5, 0.5), random.bernoulli(0.4)};
  paint_figure(canvas, static_cast<int>(kind), pose, front);
  canvas.write(random.uniform(4, 20), random, out);
}

void draw_texture(int64_t kind, int size, RandomSequence& random, uint8_t* out) {
  const Color back = random_color(random), front = contrasting(back, random);
  Canvas canvas(size, back);
  canvas.paint(texture(static_cast<int>(kind), random), front);
  canvas.write(random.uniform(4, 25), random, out);
}

void draw_digit(int64_t kind, int size, RandomSequence& random, uint8_t* out) {
  const Color back = random_color(random), front = contrasting(back, random);
  Canvas canvas(size, back);
  const double turn = random.uniform(-0.35, 0.35), shear = random.uniform(-0.3, 0.3);
  const double sx = random.uniform(0.55, 0.95), sy = random.uniform(0.6, 0.95);
  const double dx = random.uniform(-0.2, 0.2), dy = random.uniform(-0.15, 0.15);
  const double thickness = random.uniform(0.06, 0.16), c = std::cos(turn), s = std::sin(turn);
  std::vector<Stroke> strokes = digit_strokes(static_cast<int>(kind));
  for (Stroke& stroke : strokes)
    for (auto& [x, y] : stroke) {
      const double u = sx * (x + shear * y), v = sy * y;
      x = c * u - s * v + dx + 0.02 * random.normal();
      y = s * u + c * v + dy + 0.02 * random.normal();
    }
  canvas.paint(
      [&](double u, double v) {
        double d = 9;
        for (const Stroke& stroke : strokes)
          for (size_t i = 0; i + 1 < stroke.size(); ++i)
            d = std::min(d, segment_distance(u, v, stroke[i], stroke[i + 1]));
        return 0.5 - (d - thickness) / canvas.pixel();
      },
      front);
  canvas.write(random.uniform(4, 20), random, out);
}

void draw_counted(int64_t kind, int size, RandomSequence& random, uint8_t* out) {
  const Color back = random_color(random);
  Canvas canvas(size, back);
  std::vector<int> cells = {0, 1, 2, 3, 4, 5, 6, 7, 8};  // of a 3 x 3 lattice
  random.shuffle(cells);
  for (int64_t i = 0; i <= kind; ++i) {
    const Color color = contrasting(back, random);
    const double radius = random.uniform(0.18, 0.27), slack = 0.31 - radius;
    const int cell = cells[static_cast<size_t>(i)];
    const Pose pose{(cell % 3 - 1) * 0.64 + random.uniform(-slack, slack),
                    (cell / 3 - 1) * 0.64 + random.uniform(-slack, slack), radius,
                    random.uniform(-0.5, 0.5), false};
    paint_figure(canvas, static_cast<int>(random.below(kFigures.size())), pose, color);
  }
  canvas.write(random.uniform(4, 15), random, out);
}

}  // namespace

DatasetPtr make_shapes(const SyntheticOptions& options, Split split) {
  return make_family("shapes", 1, kFigures, options, split, draw_shape);
}

DatasetPtr make_textures(const SyntheticOptions& options, Split split) {
  return make_family("textures", 2, kTextures, options, split, draw_texture);
}

DatasetPtr make_digits(const SyntheticOptions& options, Split split) {
  return make_family("digits", 3, {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, options,
                     split, draw_digit);
}

DatasetPtr make_scene(const SyntheticOptions& o, Split split) {
  constexpr int kKinds = 8;
  Tensor labels = Tensor::zeros({o.count, kKinds});
  float* const label = labels.data<float>();
  const Tensor pixels =
      draw_all(o, split, 4, [&](int64_t i, int size, RandomSequence& random, uint8_t* out) {
        const Color back = random_color(random);
        Canvas canvas(size, back);
        // One figure a quadrant at most, so that none hides another.
        std::vector<int> order = {0, 1, 2, 3};
        random.shuffle(order);
        const auto figures = 1 + random.below(4);
        for (uint64_t k = 0; k < figures; ++k) {
          const int kind = static_cast<int>(random.below(kKinds));
          const Color color = contrasting(back, random);
          const double radius = random.uniform(0.3, 0.45), slack = 0.5 - radius;
          const int place = order[k];
          const Pose pose{(place % 2 ? 0.5 : -0.5) + random.uniform(-slack, slack),
                          (place / 2 ? 0.5 : -0.5) + random.uniform(-slack, slack), radius,
                          random.uniform(-0.4, 0.4), false};
          paint_figure(canvas, kind, pose, color);
          label[i * kKinds + kind] = 1.0f;
        }
        canvas.write(random.uniform(4, 15), random, out);
      });
  return std::make_shared<ArrayDataset>(
      "scene", pixels, labels,
      std::vector<std::string>(kFigures.begin(), kFigures.begin() + kKinds));
}

DatasetPtr make_counts(const SyntheticOptions& options, Split split) {
  return make_family("counts", 5, {"1", "2", "3", "4", "5"}, options, split, draw_counted);
}

}  // namespace facet
