// Readers of dataset files. Each throws a FileError that names the file, what was expected and got.
#pragma once

#include <filesystem>

#include "data/file_list.h"

namespace facet {

// An IDX file of bytes, plain or gzipped (Yann LeCun's MNIST page): u8 of the shape in its header.
// `rank` is 3 for images and 1 for labels. `whole` gets the file's bytes, unpacked.
Tensor read_idx(const std::filesystem::path& file, int rank, std::string* whole = nullptr);

// A folder in MNIST's layout: {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz], also with a dot
// before idx, there or in MNIST/raw or FashionMNIST/raw below.
DatasetPtr read_mnist(const std::filesystem::path& folder, Split split, const std::string& name,
                      std::vector<std::string> classes);
DatasetPtr read_fashion_mnist(const std::filesystem::path& folder, Split split);

// Krizhevsky's binary versions (cifar-10-batches-bin, cifar-100-binary) and Python versions
// (cifar-10-batches-py, cifar-100-python), or the folder above.
DatasetPtr read_cifar10(const std::filesystem::path& folder, Split split);
DatasetPtr read_cifar100(const std::filesystem::path& folder, Split split);

// ---- trees of pictures and lists; `folder` is the dataset's own or the one above
struct ReaderOptions {
  Split split = Split::train;  // what is asked for: a reader may leave out the rest
  Protocol protocol = Protocol::standard;
  int64_t partition = 1;       // of DTD and SUN397
  bool natural_order = false;  // class folders in timm's order instead of torchvision's
  bool crowd = true;           // MS-COCO: count groups
  bool banner = true;          // Aircraft: keep the rows that name the photographer
};
using Folder = std::filesystem::path;

using TreeReader = FileList(const Folder& folder, const ReaderOptions& options);
// FOLDER/train/CLASS/... and FOLDER/{val,test}/CLASS/...; or FOLDER/CLASS/..., split 80/20.
TreeReader read_class_folders;
// Class folders, the official tar files, or Kaggle's layout.
TreeReader read_imagenet;
TreeReader read_caltech256, read_food101, read_nabirds, read_cub200, read_cars, read_aircraft,
    read_pets, read_flowers102, read_dogs, read_dtd, read_indoor67, read_sun397, read_coco2014,
    read_coco2017;

// The pictures and labels of one COCO annotation file, sorted by picture id; labels are ranks of
// category ids. `where`: the folder of the pictures, put before their names.
struct CocoImages {
  std::vector<std::string> classes;
  std::vector<FileEntry> entries;
};
CocoImages parse_coco(std::string_view json, const std::string& file, const std::string& where,
                      Part part, bool crowd);

}  // namespace facet
