// Enumerations of the stand-in headers whose values have names: CODES(VALUE) lists them as
// VALUE(name, number), from which come the enumerators and the cases of the function that names
// them.
#pragma once

#define FACET_ENUMERATOR(name, number) name = number,
#define FACET_NAME_CASE(name, number) \
  case name: return #name;
