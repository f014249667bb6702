// A training step of SimCLR on what find_package(facet) gives.
#include "data/loader.h"
#include "nn/init.h"
#include "nn/resnet.h"
#include "ssl/simclr.h"

using namespace facet;

int main() {
  Simclr method(std::make_unique<ResNet>(ResNetOptions{.stem = Stem::small, .width = 8}), {});
  initialize(method, /*seed=*/1);
  Optimizer optimizer({}, method.groups(/*weight_decay=*/1e-4));
  const Pipeline view = supervised_pipeline(16, kImagenetNormalization, 0.5);
  DataLoader loader(open_dataset("shapes:train=32,size=16", Split::train),
                    {.views = {view, view}, .batch_size = 16});
  loader.start(/*epoch=*/0);
  const double loss = method.train_step(*loader.next(), optimizer, /*lr=*/0.1, /*step=*/0);
  fmt::print("loss {:.4f}\n", loss);
  return loss > 0 ? 0 : 1;
}
