#include "apps/command.h"
namespace facet { void run_reproduce(const Arguments&) {} }
