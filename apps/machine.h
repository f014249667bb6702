// What produced a result: version, build, machine.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tensor/device.h"

namespace facet {

using Json = nlohmann::ordered_json;

std::string version_line();  // "facet 0.1.0 (g++ 12.2.0, ...)"
Json command_line();         // of this process, word by word
// {version, commit, compiler, processor, cores, threads, memory_gib, system}
Json machine_description();
// What --device says: "cpu", "cuda" or "cuda:N", made ready for tensors. Throws where there is no
// such device.
Device use_device(const std::string& name);
// The same of "cuda:0,1,...": a device for each rank.
std::vector<Device> use_devices(const std::string& name);
std::string device_name(Device device);  // the processor's or GPU's own
std::string utc_now();                   // "2026-11-23 18:05 UTC"
void print_json(const Json& value);      // on one line, what a command prints for --json
double peak_memory_mib();                // of this process
double seconds_since_start();            // of this process, from its very beginning

}  // namespace facet
