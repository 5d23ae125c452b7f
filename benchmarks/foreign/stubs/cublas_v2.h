// SPDX-License-Identifier: Apache-2.0
// Named by a header whose kernels do not need it.
#pragma once
