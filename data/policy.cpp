#include "data/policy.h"

#include <algorithm>

namespace facet {
namespace {

using enum ImageOpKind;

constexpr std::array<uint8_t, 3> kFill{124, 116, 104};  // ImageNet's mean

// What a level of 0 to 10 means for an operation. Increasing: a higher level changes more;
// otherwise AutoAugment's own scales.
double value_at(ImageOpKind kind, double level, bool increasing, RandomSequence& random) {
  const auto either_sign = [&](double v) { return random.uniform() > .5 ? -v : v; };
  switch (kind) {
    case rotate: return either_sign(level / 10 * 30);
    case shear_x:
    case shear_y: return either_sign(level / 10 * .3);
    case translate_x:
    case translate_y: return either_sign(level / 10 * .45);
    case posterize: {
      const int bits = static_cast<int>(level / 10 * 4);
      return increasing ? 4 - bits : 4 + bits;
    }
    case ImageOpKind::solarize: {
      const int threshold = std::min(256, static_cast<int>(level / 10 * 256));
      return increasing ? 256 - threshold : threshold;
    }
    case solarize_add: return std::min(128, static_cast<int>(level / 10 * 110));
    case saturation:
    case contrast:
    case brightness:
    case sharpness:
      return increasing ? std::max(.1, 1 + either_sign(level / 10 * .9)) : level / 10 * 1.8 + .1;
    default: return 0;  // equalize, autocontrast, invert
  }
}

void add_policy_op(ViewPlan& plan, ImageOpKind kind, double level, bool increasing,
                   std::optional<Filter> filter, RandomSequence& random) {
  ImageOp op{.kind = kind, .value = static_cast<float>(value_at(kind, level, increasing, random))};
  if (kind >= rotate && kind <= translate_y) {  // it moves pixels
    op.filter = filter ? *filter : random.below(2) != 0 ? Filter::bicubic : Filter::bilinear;
    std::copy(kFill.begin(), kFill.end(), op.fill);
  }
  add(plan, op);
}

constexpr std::array kRandAugmentOps = {
    autocontrast, equalize,    invert,     rotate,     posterize, ImageOpKind::solarize,
    solarize_add, saturation,  contrast,   brightness, sharpness, shear_x,
    shear_y,      translate_x, translate_y};

struct PolicyOp {
  ImageOpKind kind;
  double probability, level;
};
constexpr auto solarized = ImageOpKind::solarize;
constexpr PolicyOp kAutoAugmentPolicy[25][2] = {
    {{posterize, .4, 8}, {rotate, .6, 9}},     {{solarized, .6, 5}, {autocontrast, .6, 5}},
    {{equalize, .8, 8}, {equalize, .6, 3}},    {{posterize, .6, 7}, {posterize, .6, 6}},
    {{equalize, .4, 7}, {solarized, .2, 4}},   {{equalize, .4, 4}, {rotate, .8, 8}},
    {{solarized, .6, 3}, {equalize, .6, 7}},   {{posterize, .8, 5}, {equalize, 1, 2}},
    {{rotate, .2, 3}, {solarized, .6, 8}},     {{equalize, .6, 8}, {posterize, .4, 6}},
    {{rotate, .8, 8}, {saturation, .4, 0}},    {{rotate, .4, 9}, {equalize, .6, 2}},
    {{equalize, 0, 7}, {equalize, .8, 8}},     {{invert, .6, 4}, {equalize, 1, 8}},
    {{saturation, .6, 4}, {contrast, 1, 8}},   {{rotate, .8, 8}, {saturation, 1, 2}},
    {{saturation, .8, 8}, {solarized, .8, 7}}, {{sharpness, .4, 7}, {invert, .6, 8}},
    {{shear_x, .6, 5}, {equalize, 1, 9}},      {{saturation, .4, 0}, {equalize, .6, 3}},
    {{equalize, .4, 7}, {solarized, .2, 4}},   {{solarized, .6, 5}, {autocontrast, .6, 5}},
    {{invert, .6, 4}, {equalize, 1, 8}},       {{saturation, .6, 4}, {contrast, 1, 8}},
    {{equalize, .8, 8}, {equalize, .6, 3}},
};

}  // namespace

PipelineStep rand_augment(double magnitude, double deviation, int layers,
                          std::optional<Filter> filter) {
  return {[=](ViewPlan& plan, RandomSequence& random) {
    std::vector<ImageOpKind> chosen;
    for (int i = 0; i < layers; ++i)
      chosen.push_back(kRandAugmentOps[random.below(kRandAugmentOps.size())]);
    for (const ImageOpKind kind : chosen) {
      if (!random.bernoulli(.5)) continue;
      const double level = std::clamp(magnitude + deviation * random.normal(), 0.0, 10.0);
      add_policy_op(plan, kind, level, true, filter, random);
    }
  }};
}

PipelineStep auto_augment(std::optional<Filter> filter) {
  return {[=](ViewPlan& plan, RandomSequence& random) {
    for (const PolicyOp& op : kAutoAugmentPolicy[random.below(25)])
      if (random.bernoulli(op.probability))
        add_policy_op(plan, op.kind, op.level, false, filter, random);
  }};
}

PipelineStep random_cutout(double share) {
  return {[=](ViewPlan& plan, RandomSequence& random) {
    ImageOp op{.kind = cutout};
    const auto extent = [&](int side, int16_t& first, int16_t& length) {
      const int half = static_cast<int>(share * side + .5) / 2;
      const auto centre = static_cast<int>(random.below(static_cast<uint64_t>(side)));
      const int low = std::max(centre - half, 0), high = std::min(centre + half, side - 1);
      first = static_cast<int16_t>(low);
      length = static_cast<int16_t>(high - low + 1);  // Pillow draws the last line, too
    };
    extent(plan.view.height, op.box[0], op.box[2]);
    extent(plan.view.width, op.box[1], op.box[3]);
    for (uint8_t& c : op.fill) c = static_cast<uint8_t>(random.below(256));
    add(plan, op);
  }};
}

}  // namespace facet
