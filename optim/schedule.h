// Learning-rate and momentum schedules: pure functions of the step, so that a resumed run computes
// what the uninterrupted one did. t counts optimiser steps from 0, epochs from 0.
#pragma once

#include <cstdint>

namespace facet::schedule {

// base / 2 (1 + cos(pi progress)) towards `final`, progress in [0, 1].
double cosine(double base, double final, double progress);

// MoCo: once an epoch, no warm-up: base / 2 (1 + cos(pi epoch / epochs)).
double moco(double base, int64_t epoch, int64_t epochs);

// SimCLR: linear from 0 over round(warmup_epochs * examples // batch) steps, then cosine to 0 over
// the rest of examples * epochs // batch + 1.
struct SimclrPlan {
  int64_t warmup_steps, total_steps;
};
SimclrPlan simclr_plan(int64_t examples, int64_t batch, int64_t epochs, int64_t warmup_epochs);
double simclr(double peak, int64_t t, const SimclrPlan& plan);

// SwAV and DINO: linspace(start, base, warmup steps) with the endpoint included, then cosine from
// base (so the peak stands twice) to `final`, whose last value is one step short of it.
double warmup_linspace_cosine(double start, double base, double final, int64_t t,
                              int64_t warmup_steps, int64_t total_steps);

// MAE: fractional epochs: base * e / warmup, then min + (base - min) / 2 (1 + cos(pi (e - W) / (E -
// W))).
double mae(double base, double min, double epoch, double warmup_epochs, double epochs);

// timm 0.4 cosine, once an epoch: warm-up adds up linearly from warmup_lr; the cosine counts from
// epoch 0 (so the rate jumps just below its peak), and stays at min after the last epoch.
double timm(double base, double min, double warmup_lr, int64_t epoch, int64_t warmup_epochs,
            int64_t epochs);

// Islam et al. 2021: steps rise linearly from behind `first`; then once an epoch a cosine that
// counts from the end of the warm-up, but over all epochs, and so ends above min.
double islam(double base, double min, double first, int64_t t, int64_t per_epoch,
             int64_t warmup_epochs, int64_t epochs);

// PyTorch's OneCycleLR with cosines: from peak / 25 up to the peak at step warmup_steps - 1, down
// to peak / 250,000 at the last of total_steps. The momentum stays.
double one_cycle(double peak, int64_t t, double warmup_steps, int64_t total_steps);

}  // namespace facet::schedule
