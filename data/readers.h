// Readers of dataset files. Each throws a FileError that names the file, what was expected and got.
#pragma once

#include <filesystem>

#include "data/dataset.h"

namespace facet {

// An IDX file of bytes, plain or gzipped (Yann LeCun's MNIST page): u8 of the shape in its header.
// `rank` is 3 for images and 1 for labels.
Tensor read_idx(const std::filesystem::path& file, int rank);

// A folder in MNIST's layout: {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz], also with a dot
// before idx, there or in MNIST/raw or FashionMNIST/raw below.
DatasetPtr read_mnist(const std::filesystem::path& folder, Split split, const std::string& name,
                      std::vector<std::string> classes);
DatasetPtr read_fashion_mnist(const std::filesystem::path& folder, Split split);

// Krizhevsky's binary versions: cifar-10-batches-bin or cifar-100-binary, or the folder above it.
DatasetPtr read_cifar10(const std::filesystem::path& folder, Split split);
DatasetPtr read_cifar100(const std::filesystem::path& folder, Split split);

}  // namespace facet
