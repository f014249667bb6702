// A narrow ResNet-18 learns to tell clothes apart: a dataset, a loader with augmentation, a
// learning-rate schedule, and the accuracy on pictures it has not seen.
#include "data/loader.h"
#include "metrics/accuracy.h"
#include "nn/init.h"
#include "nn/resnet.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

using namespace facet;

namespace {

double test_accuracy(ResNet& network, const DatasetPtr& dataset, const Pipeline& pipeline) {
  const NoGrad no_grad;
  network.eval();
  DataLoader loader(dataset, {.views = {pipeline}, .batch_size = 100, .shuffle = false});
  TensorList logits;
  while (const auto batch = loader.next())
    logits.push_back(network.logits(Variable(batch->views[0])).value());
  network.train();
  return top_k_accuracy(ops::concat(logits), dataset->labels());
}

}  // namespace

int main() {
  constexpr int kSize = 20;
  constexpr int64_t kEpochs = 4;
  const DatasetPtr train = balanced_subset(open_dataset("fashion-mnist", Split::train), 80, 1);
  const DatasetPtr test = balanced_subset(open_dataset("fashion-mnist", Split::test), 30, 1);
  const Pipeline augmented = supervised_pipeline(kSize, kFashionMnistNormalization, 0.5);
  const Pipeline whole = eval_pipeline(kSize, kFashionMnistNormalization);

  ResNet network(
      {.arch = "resnet18", .stem = Stem::small, .width = 8, .num_classes = train->num_classes()});
  initialize(network, /*seed=*/1);
  ParamGroup all;
  all.weight_decay = 5e-4;
  all.parameters = parameters(network);
  Optimizer optimizer({}, decay_groups(all.parameters, all));  // SGD, momentum 0.9

  DataLoader loader(train, {.views = {augmented}, .batch_size = 32});
  const int64_t steps = kEpochs * loader.batches();
  int64_t step = 0;
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    loader.start(epoch);
    double total = 0;
    while (const auto batch = loader.next()) {
      optimizer.clear_grads();
      const Variable loss = cross_entropy(network.logits(Variable(batch->views[0])), batch->labels);
      backward(loss);
      const double progress = static_cast<double>(step) / static_cast<double>(steps);
      optimizer.step(schedule::cosine(0.05, 0.0, progress), ++step);
      total += loss.item();
    }
    fmt::print("epoch {}  loss {:.4f}\n", epoch + 1, total / static_cast<double>(loader.batches()));
  }
  const double accuracy = test_accuracy(network, test, whole);
  fmt::print("accuracy on {} new pictures: {:.1f}%\n", test->size(), 100 * accuracy);
  return accuracy > 0.5 ? 0 : 1;
}
