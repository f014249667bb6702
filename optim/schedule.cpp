#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace facet::schedule {
namespace {
double ratio(int64_t a, int64_t b) {
  return static_cast<double>(a) / static_cast<double>(b);
}
}  // namespace

double cosine(double base, double final, double progress) {
  return final + 0.5 * (base - final) * (1.0 + std::cos(std::numbers::pi * progress));
}

double moco(double base, int64_t epoch, int64_t epochs) {
  return cosine(base, 0.0, ratio(epoch, epochs));
}

SimclrPlan simclr_plan(int64_t examples, int64_t batch, int64_t epochs, int64_t warmup_epochs) {
  return {std::llround(static_cast<double>(warmup_epochs * examples / batch)),
          examples * epochs / batch + 1};
}

double simclr(double peak, int64_t t, const SimclrPlan& plan) {
  if (t < plan.warmup_steps) return peak * ratio(t, plan.warmup_steps);
  const int64_t rest = std::max<int64_t>(1, plan.total_steps - plan.warmup_steps);
  return cosine(peak, 0.0, std::min(1.0, ratio(t - plan.warmup_steps, rest)));
}

double warmup_linspace_cosine(double start, double base, double final, int64_t t,
                              int64_t warmup_steps, int64_t total_steps) {
  if (t < warmup_steps)
    return warmup_steps == 1 ? start : start + (base - start) * ratio(t, warmup_steps - 1);
  return cosine(base, final,
                ratio(t - warmup_steps, std::max<int64_t>(1, total_steps - warmup_steps)));
}

double mae(double base, double min, double epoch, double warmup_epochs, double epochs) {
  if (epoch < warmup_epochs) return base * epoch / warmup_epochs;
  return cosine(base, min, (epoch - warmup_epochs) / (epochs - warmup_epochs));
}

double timm(double base, double min, double warmup_lr, int64_t epoch, int64_t warmup_epochs,
            int64_t epochs) {
  if (epoch < warmup_epochs) return warmup_lr + (base - warmup_lr) * ratio(epoch, warmup_epochs);
  return epoch < epochs ? cosine(base, min, ratio(epoch, epochs)) : min;
}

double islam(double base, double min, double first, int64_t t, int64_t per_epoch,
             int64_t warmup_epochs, int64_t epochs) {
  const int64_t rising = warmup_epochs * per_epoch;
  if (t < rising) return first + (base - first) * ratio(t + 1, rising);
  return cosine(base, min, ratio(t / per_epoch - warmup_epochs, epochs));
}

double one_cycle(double peak, int64_t t, double warmup_steps, int64_t total_steps) {
  const double step = static_cast<double>(t), top = warmup_steps - 1,
               end = static_cast<double>(total_steps - 1);
  if (step <= top) return cosine(peak / 25, peak, top > 0 ? step / top : 1.0);
  return cosine(peak, peak / 25e4, (step - top) / std::max(end - top, 1.0));
}

}  // namespace facet::schedule
