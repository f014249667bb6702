// The three containers of PyTorch's .pth files, whatever their name: the zip of 1.6 and later, the
// stream of pickles before, and the tar of the very first. Nothing of a file is ever executed:
// tensors are recognised by the names of the functions that PyTorch would call to make them,
// everything else is passed over and listed as opaque.
#pragma once

#include <filesystem>
#include <span>

#include "tensor/file.h"
#include "tensor/stored_tensor.h"
#include "tensor/zip.h"

namespace facet {

// What the file holds; its tensors are left where they are. Every view is checked against the
// storage it lies in. FileErrors name the file, the tensor and what is wrong with it.
StoredContent open_pytorch_zip(const InputFile& file, const ZipArchive& zip);
StoredContent open_pytorch_legacy(const InputFile& file);
StoredContent open_pytorch_tar(const InputFile& file);

// A zip that `torch.load(weights_only=True)` opens: an OrderedDict of tensors, each with a storage
// of its own. Atomic; the same tensors in the same order give the same bytes.
void save_pytorch(const std::filesystem::path& path, std::span<const PackedTensor> tensors);

}  // namespace facet
