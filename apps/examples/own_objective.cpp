// A training method of your own in one class: predict which quarter turn a picture was given
// (Gidaris et al. 2018). Everything else - optimiser, guards against NaN, checkpoints - works on
// any Objective.
#include "data/loader.h"
#include "nn/init.h"
#include "nn/resnet.h"
#include "ssl/objective.h"

using namespace facet;

namespace {

// A picture turned by 90 degrees k times, for square (B, S, S, C) batches.
Tensor quarter_turn(const Tensor& x, int k) {
  Tensor turned = x;
  const int64_t size = x.dim(1);
  std::vector<int64_t> backwards(static_cast<size_t>(size));
  for (size_t i = 0; i < backwards.size(); ++i) backwards[i] = size - 1 - static_cast<int64_t>(i);
  const Tensor order = Tensor::from(backwards, {size});
  for (; k > 0; --k) {
    // Transposed, then the rows in reverse.
    const Tensor rows_first = ops::permute(turned, {2, 0, 1, 3});
    turned = ops::permute(ops::gather_rows(rows_first, order), {1, 0, 2, 3});
  }
  return turned;
}

class RotationObjective final : public Objective {
 public:
  explicit RotationObjective(std::unique_ptr<Encoder> encoder)
      : encoder_(std::move(encoder)), head_(encoder_->feature_dim(), 4) {}

  const char* name() const override { return "rotation"; }
  Encoder& encoder() override { return *encoder_; }
  double collapse_loss(int64_t) const override { return 1.3862943611; }  // ln 4

  Variable loss(const Batch& batch, int64_t) override {
    TensorList images;
    std::vector<int64_t> turns;
    for (int k = 0; k < 4; ++k) {
      images.push_back(quarter_turn(batch.views[0], k));
      turns.insert(turns.end(), static_cast<size_t>(batch.views[0].dim(0)), k);
    }
    const Variable logits = head_(encoder_->features(Variable(ops::concat(images))));
    return cross_entropy(logits, Tensor::from(turns, {static_cast<int64_t>(turns.size())}));
  }

  void visit(ModuleVisitor& v) override {
    v("encoder", *encoder_);
    v("head", head_);
  }

 private:
  std::unique_ptr<Encoder> encoder_;
  Linear head_;
};

}  // namespace

int main() {
  const DatasetPtr pictures = open_dataset("digits:train=200,size=16", Split::train);
  RotationObjective objective(
      std::make_unique<ResNet>(ResNetOptions{.arch = "resnet18", .stem = Stem::small, .width = 8}));
  initialize(objective, /*seed=*/1);
  Optimizer optimizer({}, objective.groups(/*weight_decay=*/1e-4));

  DataLoader loader(pictures,
                    {.views = {eval_pipeline(16, kImagenetNormalization)}, .batch_size = 20});
  int64_t step = 0;
  double mean = 0;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    loader.start(epoch);
    mean = 0;
    while (const auto batch = loader.next())
      mean += objective.train_step(*batch, optimizer, /*lr=*/0.05, step++);
    mean /= static_cast<double>(loader.batches());
    fmt::print("epoch {}  loss {:.4f}  (guessing: {:.4f})\n", epoch + 1, mean,
               objective.collapse_loss(0));
  }
  return mean < objective.collapse_loss(0) ? 0 : 1;
}
