// Whose file of weights this is, and which of its tensors are the network: the layouts of official
// checkpoints as one table, mapped to torchvision's names (ResNet) or timm's (ViT).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "apps/model.h"
#include "tensor/weights_file.h"

namespace facet {

// A network in a file, by name and shape alone; nothing is read but what the file says.
struct MappedWeights {
  std::string mapping;  // of the table: "moco", "torchvision" ...
  Architecture architecture;
  std::string arch;                                    // "resnet50", "vit_base" ...
  std::string head;                                    // "fc" or "head"
  std::map<std::string, const StoredTensor*> weights;  // torchvision's or timm's name to tensor
  bool has_head = false;
  // Against the architecture. A name that is missing, a shape that differs, or an unexpected tensor
  // inside the backbone (another architecture's) make the file unfit; unexpected ones outside are
  // passed over, as heads that the table knows are (dropped).
  std::vector<std::string> missing, unexpected, mismatched, dropped;
  bool unfit = false;

  void expect_fit(const std::string& file) const;  // a FileError where the file is unfit
  // "3 missing: a, b, c; 1 mismatched: ..."; empty where all is well.
  std::string problems() const;
};

// `arch` "auto" reads the architecture off the file, any other is what is expected of it. A
// FileError where no layout of the table fits, which says what the file holds instead. The file
// must outlive the result.
MappedWeights map_weights(const WeightsFile& file, const std::string& arch = "auto");

// The tensors of the network as facet computes with them, (Cout, kh, kw, Cin). A FileError where
// the file is unfit.
std::vector<NamedTensor> load_mapped(const WeightsFile& file, const MappedWeights& mapped);

}  // namespace facet
