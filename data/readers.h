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

// FOLDER/train/CLASS/... and FOLDER/{val,test}/CLASS/...; or FOLDER/CLASS/..., split 80/20.
FileList read_class_folders(const Folder& folder, const ReaderOptions& options);
// Class folders, the official tar files, or Kaggle's layout.
FileList read_imagenet(const Folder& folder, const ReaderOptions& options);
FileList read_caltech256(const Folder& folder, const ReaderOptions& options);
FileList read_food101(const Folder& folder, const ReaderOptions& options);
FileList read_nabirds(const Folder& folder, const ReaderOptions& options);
FileList read_cub200(const Folder& folder, const ReaderOptions& options);
FileList read_cars(const Folder& folder, const ReaderOptions& options);
FileList read_aircraft(const Folder& folder, const ReaderOptions& options);
FileList read_pets(const Folder& folder, const ReaderOptions& options);
FileList read_flowers102(const Folder& folder, const ReaderOptions& options);
FileList read_dogs(const Folder& folder, const ReaderOptions& options);
FileList read_dtd(const Folder& folder, const ReaderOptions& options);
FileList read_indoor67(const Folder& folder, const ReaderOptions& options);
FileList read_sun397(const Folder& folder, const ReaderOptions& options);
FileList read_coco2014(const Folder& folder, const ReaderOptions& options);
FileList read_coco2017(const Folder& folder, const ReaderOptions& options);

// The pictures and labels of one COCO annotation file, sorted by picture id; labels are ranks of
// category ids. `where`: the folder of the pictures, put before their names.
struct CocoImages {
  std::vector<std::string> classes;
  std::vector<FileEntry> entries;
};
CocoImages parse_coco(std::string_view json, const std::string& file, const std::string& where,
                      Part part, bool crowd);

}  // namespace facet
