// SPDX-License-Identifier: Apache-2.0
// As much of torch as host code that is never run needs to compile.
#pragma once
#include <cmath>
#include <cstdio>

namespace torch {

enum DeviceType { kCUDA };
struct Device {
    explicit Device(DeviceType) {}
};
struct Shape {
    Shape(int, int, int) {}
};
struct Tensor {
    int size(int) const { return 1; }
    Tensor to(Device) const { return *this; }
    template <class T>
    T* data_ptr() const { return nullptr; }
};
inline Tensor zeros_like(const Tensor& like) { return like; }
inline Tensor zeros(Shape) { return {}; }
inline Tensor full(Shape, float) { return {}; }

}  // namespace torch
