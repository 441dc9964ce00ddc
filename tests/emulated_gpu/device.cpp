// A GPU that is not one. Tensors of the device `cuda` lie in the host's memory and CPU operators compute with them, so that
// what the project does with a GPU runs where there is none: see emulated.py for what this shows and what it cannot.
//
// As on a GPU: tensors of two devices do not mix; new memory holds garbage (0xFF: NaN), as does freed memory; a copy that
// does not block is carried out as late as streams and events allow; a graph records operators and does them again
// on the memory they had, and what only the graph has of that is garbage after a replay.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Generator.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/TensorBody.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>

namespace {

using at::IntArrayRef;
using at::Tensor;
using c10::IValue;
using Key = c10::DispatchKey;
template <class T>
using Maybe = std::optional<T>;
constexpr auto CUDA = c10::DeviceType::CUDA;

std::atomic<int64_t> allocated{0}, peak{0};
std::atomic<int64_t> of_waits{0};  // torch.cuda.set_sync_debug_mode: 0 nothing, 1 a warning, 2 an error
thread_local c10::DeviceIndex current = 0;
thread_local std::array<int64_t, 16> streams{};  // the current one of each device, by number; 0 is the default one
std::mutex lock;  // of what is noted below; held for moments, as who holds it may not wait for Python

struct Call {  // an operator of a graph
  c10::OperatorHandle op;
  std::vector<IValue> given;
  std::vector<Tensor> made;  // its results in new memory
};
using Graph = std::vector<Call>;
std::map<int64_t, Graph> graphs;
Graph* recorded = nullptr;
bool broken = false;

// EMULATED_GPUS, and of those as many as CUDA_VISIBLE_DEVICES shows when CUDA first looks.
int64_t devices() {
  static const int64_t count = [] {
    const char *all = std::getenv("EMULATED_GPUS"), *shown = std::getenv("CUDA_VISIBLE_DEVICES");
    const int64_t most = std::atoi(all ? all : "1");
    if (!shown) return most;
    return *shown ? std::min<int64_t>(most, 1 + std::count(shown, shown + std::strlen(shown), ',')) : int64_t{0};
  }();
  return count;
}

void host_waits(const std::string& what) {
  if (recorded) {
    broken = true;
    TORCH_CHECK(false, "CUDA error: operation not permitted when stream is capturing (", what, ")");
  }
  TORCH_CHECK(of_waits < 2, "called a synchronizing CUDA operation (", what, ")");
  if (of_waits) TORCH_WARN("called a synchronizing CUDA operation (", what, ")");
}

// Memory

struct Memory final : c10::Allocator {
  struct Block {
    void* data;
    size_t size;
  };
  c10::DataPtr allocate(size_t size) override {
    void* data = nullptr;
    TORCH_CHECK(posix_memalign(&data, 512, std::max<size_t>(size, 1)) == 0, "CUDA out of memory");
    std::memset(data, 0xFF, size);
    peak = std::max<int64_t>(peak, allocated += size);
    return {data, new Block{data, size}, &release, c10::Device(CUDA, current)};
  }
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    std::memset(block->data, 0xFF, block->size);
    std::free(block->data);
    allocated -= block->size;
    delete block;
  }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
} memory;

std::map<const char*, size_t> pinned;  // host memory: where a block begins, and its size
std::mutex pins;

struct Pinned final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = nullptr;
    TORCH_CHECK(posix_memalign(&data, 512, std::max<size_t>(size, 1)) == 0, "out of memory");
    std::lock_guard held(pins);
    pinned[static_cast<const char*>(data)] = size;
    return {data, data, &release, c10::Device(c10::kCPU)};
  }
  static void release(void* data) {
    std::lock_guard held(pins);
    std::memset(data, 0xFF, pinned[static_cast<const char*>(data)]);
    pinned.erase(static_cast<const char*>(data));
    std::free(data);
  }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
} pinning;

bool is_pinned(const void* data) {
  std::lock_guard held(pins);
  auto after = pinned.upper_bound(static_cast<const char*>(data));
  return after != pinned.begin() && (--after, static_cast<const char*>(data) < after->first + after->second);
}

// Tensors of the same memory on the other side

Tensor over(c10::Storage storage, const Tensor& shaped, Key key) {
  auto x = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), shaped.dtype());
  x.unsafeGetTensorImpl()->set_storage_offset(shaped.storage_offset());
  x.unsafeGetTensorImpl()->set_sizes_and_strides(shaped.sizes(), shaped.strides());
  return x;
}

c10::Storage shared(const c10::Storage& storage, c10::Device device, c10::Allocator* by) {
  auto* kept = new c10::Storage(storage);
  c10::DataPtr data(kept->mutable_data(), kept, [](void* p) { delete static_cast<c10::Storage*>(p); }, device);
  return c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), by, true);
}

Tensor on_host(const Tensor& x) {
  if (!x.defined() || !x.is_cuda()) return x;
  return over(shared(x.storage(), c10::kCPU, c10::GetCPUAllocator()), x, Key::CPU);
}

Tensor on_device(const Tensor& x, c10::Device device) { return over(shared(x.storage(), device, &memory), x, Key::CUDA); }

Tensor plain(const Tensor& x) {  // without what autograd has noted of it
  return x.defined() && x.is_cuda() ? over(x.storage(), x, Key::CUDA) : x;
}

c10::StorageImpl* storage_of(const Tensor& x) { return x.storage().unsafeGetStorageImpl(); }

using Turn = std::function<Tensor(const Tensor&)>;

IValue turned(const IValue& value, const Turn& turn) {  // each tensor of an argument
  if (value.isTensor()) return turn(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& x : value.toTensorVector()) list.push_back(turn(x));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<Maybe<Tensor>> list;
    for (const Maybe<Tensor>& x : value.toOptionalTensorVector()) list.push_back(x ? Maybe<Tensor>(turn(*x)) : x);
    return list;
  }
  if (value.isList() && !value.toListRef().empty() && value.toListRef()[0].isTensorList()) {
    c10::List<c10::List<Tensor>> list;
    for (const IValue& inner : value.toListRef()) list.push_back(turned(inner, turn).toTensorList());
    return list;
  }
  return value;
}

void each(const IValue& value, const std::function<void(const Tensor&)>& act) {
  turned(value, [&](const Tensor& x) { if (x.defined()) act(x); return x; });
}

// Streams: what is on its way between host and device

struct Copy {
  int64_t number;
  Tensor to, from;
};
struct Way {
  int64_t issued = 0;
  std::vector<Copy> to_device, to_host;
};
std::map<int64_t, Way> ways;  // by the number of a stream

void arrive(std::vector<Copy> Way::*direction, int64_t stream, int64_t last) {
  std::vector<Copy> due;
  {
    std::lock_guard held(lock);
    auto& copies = ways[stream].*direction;
    auto rest = std::stable_partition(copies.begin(), copies.end(), [&](const Copy& copy) { return copy.number <= last; });
    due.assign(std::make_move_iterator(copies.begin()), std::make_move_iterator(rest));
    copies.erase(copies.begin(), rest);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  for (auto& copy : due) on_host(copy.to).copy_(on_host(copy.from));
}

void device_reaches(int64_t stream, int64_t last) { arrive(&Way::to_device, stream, last); }

void host_reaches(int64_t stream, int64_t last) {
  arrive(&Way::to_device, stream, last);
  arrive(&Way::to_host, stream, last);
}

int64_t issued(int64_t stream) {
  std::lock_guard held(lock);
  return ways[stream].issued;
}

int64_t here() { return streams[current]; }
constexpr int64_t ALL = INT64_MAX;

void record(Call call) {
  std::lock_guard held(lock);
  if (recorded) recorded->push_back(std::move(call));
}

Tensor& copy(Tensor& to, const Tensor& from, bool non_blocking) {
  device_reaches(here(), ALL);
  const bool across = to.is_cuda() != from.is_cuda();
  if (across && non_blocking && is_pinned((to.is_cuda() ? from : to).storage().data())) {
    TORCH_CHECK(!recorded, "a copy to or from the host, while a graph is captured");
    auto kept = to.is_cuda() ? from : on_host(from).clone();  // to the host go the values of now, when they are waited for
    std::lock_guard held(lock);
    auto& way = ways[here()];
    (to.is_cuda() ? way.to_device : way.to_host).push_back({++way.issued, plain(to), kept});
    return to;
  }
  if (across) {
    host_waits("copy_");
    host_reaches(here(), ALL);
  }
  on_host(to).copy_(on_host(from));
  if (recorded) {
    static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::copy_", "");
    record({op, {plain(to), plain(from), non_blocking}, {}});
  }
  return to;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Stream stream(c10::Device device, int64_t number) {
    return c10::Stream(c10::Stream::UNSAFE, device.has_index() ? device : c10::Device(CUDA, current), number);
  }
  c10::DeviceType type() const override { return CUDA; }
  c10::Device exchangeDevice(c10::Device to) const override { return {CUDA, std::exchange(current, to.index())}; }
  c10::Device getDevice() const override { return {CUDA, current}; }
  void setDevice(c10::Device to) const override { uncheckedSetDevice(to); }
  void uncheckedSetDevice(c10::Device to) const noexcept override { if (to.has_index()) current = to.index(); }
  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(devices()); }
  c10::Stream getStream(c10::Device of) const override { return stream(of, streams[of.has_index() ? of.index() : current]); }
  c10::Stream getDefaultStream(c10::Device of) const override { return stream(of, 0); }
  c10::Stream exchangeStream(c10::Stream to) const override {
    return stream(to.device(), std::exchange(streams[to.device_index()], to.id()));
  }
  // An event of autograd's is the number of its stream; what it waits for is all that was asked of that.
  void record(void** event, const c10::Stream& on, c10::DeviceIndex, c10::EventFlag) const override {
    *event = reinterpret_cast<void*>(on.id() + 1);
  }
  void block(void* event, const c10::Stream&) const override { device_reaches(reinterpret_cast<int64_t>(event) - 1, ALL); }
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeEvent(void* event) const override {
    host_waits("event");
    host_reaches(reinterpret_cast<int64_t>(event) - 1, ALL);
  }
  void synchronizeStream(const c10::Stream& of) const override {
    host_waits("stream");
    host_reaches(of.id(), ALL);
  }
};

// Random numbers: a CPU's generator, which says that it is a GPU's

struct Random final : c10::GeneratorImpl {
  c10::intrusive_ptr<at::CPUGeneratorImpl> own = c10::make_intrusive<at::CPUGeneratorImpl>();
  explicit Random(c10::DeviceIndex i) : GeneratorImpl(c10::Device(CUDA, i), c10::DispatchKeySet(Key::CUDA)) {}
  void set_current_seed(uint64_t seed) override { own->set_current_seed(seed); }
  uint64_t current_seed() const override { return own->current_seed(); }
  uint64_t seed() override { return own->seed(); }
  void set_offset(uint64_t offset) override { own->set_offset(offset); }
  uint64_t get_offset() const override { return own->get_offset(); }
  void set_state(const c10::TensorImpl& state) override { own->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return own->get_state(); }
  GeneratorImpl* clone_impl() const override { TORCH_CHECK(false, "not emulated"); }
};

std::array<at::Generator, 16> common;  // the default one of each device

IValue cpu_generator(const at::Generator& of) {
  return at::Generator(static_cast<Random*>(of.unsafeGetGeneratorImpl())->own);
}

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return static_cast<int>(devices()); }
  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(devices()); }
  c10::DeviceIndex current_device() const override { return current; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex to) const override { current = to; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex to) const override { return std::exchange(current, to); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex to) const override { return std::exchange(current, to); }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinning; }
  c10::Allocator* getCUDADeviceAllocator() const override { return &memory; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex i) const override { return common[i < 0 ? current : i]; }
  at::Generator getNewGenerator(c10::DeviceIndex i) const override { return at::make_generator<Random>(i < 0 ? current : i); }
};

// Operators

const std::set<std::string> TAKE_BOTH = {"aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::set_"};
const std::set<std::string> LOOK = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::_unique2", "aten::masked_select"};

void take_over(const Tensor& x, const Tensor& host) {  // the sizes, and the memory, that an operator gave it
  if (host.storage().data() != x.storage().data()) {
    auto storage = shared(host.storage(), x.device(), &memory);
    storage_of(x)->set_nbytes(storage.nbytes());
    storage_of(x)->set_data_ptr_noswap(std::move(storage.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks()));
  }
  if (host.sizes() != x.sizes() || host.strides() != x.strides())
    x.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
}

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {  // any operator, by the CPU's
  device_reaches(here(), ALL);
  const auto& schema = op.schema();
  const auto begin = stack->size() - schema.arguments().size();
  const std::vector<IValue> given(stack->begin() + begin, stack->end());
  std::vector<std::pair<Tensor, Tensor>> sides;  // on the device, and on the host
  Maybe<c10::Device> asked;
  c10::Device device(CUDA, current);
  bool others = false;
  auto to_host = [&](const Tensor& x) {
    if (!x.defined() || !x.is_cuda()) {
      others |= x.defined() && x.dim() > 0;
      return x;
    }
    for (auto& [own, host] : sides) {
      TORCH_CHECK(own.device() == x.device(), schema.name(), ": tensors on ", own.device(), " and ", x.device());
      if (own.is_same(x)) return host;
    }
    device = x.device();
    sides.emplace_back(x, on_host(x));
    return sides.back().second;
  };
  for (size_t i = 0; i < given.size(); ++i) (*stack)[begin + i] = turned(given[i], to_host);
  for (size_t i = 0; i < given.size(); ++i) {
    IValue& value = (*stack)[begin + i];
    if (value.isDevice()) {
      asked = value.toDevice();
      if (asked->is_cuda() && asked->has_index()) device = *asked;
      value = c10::Device(c10::kCPU);
    } else if (value.isGenerator() && value.toGenerator().device().is_cuda()) {
      value = cpu_generator(value.toGenerator());
    } else if (value.isNone() && schema.arguments()[i].name() == "generator") {
      value = cpu_generator(common[device.index()]);
    }
  }
  TORCH_CHECK(!others || sides.empty() || TAKE_BOTH.count(schema.name()),
              "Expected all tensors to be on the same device, but found at least two devices, ", device, " and cpu! (", schema.name(), ")");
  if (LOOK.count(schema.name())) {
    host_waits(schema.name());
    host_reaches(here(), ALL);
  }
  std::vector<IValue> noted;
  if (recorded) for (auto& value : given) noted.push_back(turned(value, plain));

  op.redispatchBoxed(c10::DispatchKeySet(Key::CPU), stack);

  for (auto& [own, host] : sides) take_over(own, host);
  std::vector<Tensor> made;
  auto to_device = [&](const Tensor& x) -> Tensor {
    if (!x.defined() || x.is_cuda() || (asked && !asked->is_cuda())) return x;
    for (auto& [own, host] : sides) if (host.is_same(x)) return own;
    for (auto& [own, host] : sides) if (storage_of(host) == storage_of(x)) return over(own.storage(), x, Key::CUDA);
    auto result = on_device(x, device);
    made.push_back(plain(result));
    return result;
  };
  for (auto i = stack->size() - schema.returns().size(); i < stack->size(); ++i) (*stack)[i] = turned((*stack)[i], to_device);
  if (recorded && (schema.is_mutable() || !made.empty())) record({op, std::move(noted), std::move(made)});
}

Tensor empty(IntArrayRef size, Maybe<c10::ScalarType> dtype, Maybe<c10::Layout>, Maybe<c10::Device> device, Maybe<bool> pin,
             Maybe<c10::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  c10::DeviceGuard guard(device && device->has_index() ? *device : c10::Device(CUDA, current));
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(Key::CUDA), c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, Maybe<c10::ScalarType> dtype, Maybe<c10::Layout>,
                     Maybe<c10::Device> device, Maybe<bool>) {
  c10::DeviceGuard guard(device && device->has_index() ? *device : c10::Device(CUDA, current));
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(Key::CUDA), c10::dtype_or_default(dtype));
}

Tensor& set_part(Tensor& x, c10::Storage of, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  auto* impl = x.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(of));
  impl->set_storage_offset(offset);
  if (stride.size() == size.size()) impl->set_sizes_and_strides(size, stride);
  else impl->set_sizes_contiguous(size);
  return x;
}
Tensor& set_whole(Tensor& x, c10::Storage of) {
  const auto count = static_cast<int64_t>(of.nbytes() / x.dtype().itemsize());
  return set_part(x, std::move(of), 0, {count}, {1});
}
Tensor& set_like(Tensor& x, const Tensor& y) { return set_part(x, y.storage(), y.storage_offset(), y.sizes(), y.strides()); }

Tensor mm_in(const Tensor& a, const Tensor& b, c10::ScalarType dtype) { return at::mm(a.to(dtype), b.to(dtype)); }

void collective(const c10::OperatorHandle& op, torch::jit::Stack* stack) {  // by the group's backend for the CPU
  TORCH_CHECK(!recorded, "a collective while a graph is captured: ", op.schema().name());
  device_reaches(here(), ALL);
  for (auto i = stack->size() - op.schema().arguments().size(); i < stack->size(); ++i) (*stack)[i] = turned((*stack)[i], on_host);
  op.redispatchBoxed(c10::DispatchKeySet(Key::CPU), stack);
}

// Graphs

void forget(const Graph& graph) {  // what only the graph has, another may have had meanwhile
  std::set<c10::TensorImpl*> own;
  std::map<c10::StorageImpl*, size_t> uses;
  auto note = [&](const Tensor& x) {
    if (x.is_cuda() && own.insert(x.unsafeGetTensorImpl()).second) ++uses[storage_of(x)];
  };
  for (auto& call : graph) {
    for (auto& value : call.given) each(value, note);
    for (auto& x : call.made) note(x);
  }
  for (auto& [storage, count] : uses)
    if (c10::raw::intrusive_ptr::use_count(storage) == count) std::memset(storage->mutable_data(), 0xFF, storage->nbytes());
}

void capture_begin() {
  TORCH_CHECK(!recorded, "a graph is being captured");
  recorded = new Graph();
  broken = false;
}

int64_t capture_end() {
  static int64_t number = 0;
  std::unique_ptr<Graph> found(std::exchange(recorded, nullptr));
  TORCH_CHECK(!broken, "CUDA error: operation failed due to a previous error during capture");
  auto& graph = graphs[++number] = std::move(*found);
  forget(graph);
  return number;
}

void replay(int64_t number) {
  at::AutoDispatchBelowADInplaceOrView below;
  device_reaches(here(), ALL);
  auto& graph = graphs.at(number);
  for (auto& call : graph) {
    std::set<c10::StorageImpl*> had;
    for (auto& value : call.given) each(value, [&](const Tensor& x) { had.insert(storage_of(x)); });
    torch::jit::Stack stack(call.given.begin(), call.given.end());
    call.op.redispatchBoxed(c10::DispatchKeySet(Key::CUDA), &stack);
    auto to = call.made.begin();
    for (auto& value : stack)
      each(value, [&](const Tensor& x) { if (!had.count(storage_of(x))) on_host(*to++).copy_(on_host(x)); });
    TORCH_CHECK(to == call.made.end(), "not as it was recorded: ", call.op.schema().name());
  }
  forget(graph);
}

void drop(int64_t number) { graphs.erase(number); }

// What torch_cuda.py asks for

int64_t stream() { return here(); }
void set_stream(int64_t number) { streams[current] = number; }
int64_t device() { return current; }
int64_t exchange_device(int64_t to) { return std::exchange(current, static_cast<c10::DeviceIndex>(to)); }
void waited(std::string what) { host_waits(what); }
void say_waits(int64_t mode) { of_waits = mode; }
int64_t now_allocated() { return allocated; }
int64_t most_allocated(bool anew) {
  if (anew) peak = allocated.load();
  return peak;
}
void set_common(int64_t device, Maybe<at::Generator> generator) { common.at(device) = *generator; }

}  // namespace

namespace at {
using EmulatedHooks = ::Hooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, EmulatedHooks)
}  // namespace at
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

auto computed() { return torch::CppFunction::makeFromBoxedFunction<&compute>(); }

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(computed()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {  // what the fallback is not asked for, as PyTorch has something for every device
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("view.dtype", computed());
  m.impl("copy_", &copy);
  m.impl("set_.source_Storage_storage_offset", &set_part);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Tensor", &set_like);
  m.impl("mm.dtype", &mm_in);
  m.impl("convolution", computed());
  m.impl("convolution_backward", computed());
}

TORCH_LIBRARY_IMPL(c10d, CUDA, m) {  // in the place of what PyTorch has, which warns of that
  struct Silent : c10::WarningHandler {
    void process(const c10::Warning&) override {}
  } silent;
  c10::WarningUtils::WarningHandlerGuard guard(&silent);
  for (auto name : {"allreduce_", "allreduce_coalesced_", "broadcast_", "reduce_", "allgather_", "_allgather_base_",
                    "allgather_into_tensor_coalesced_", "reduce_scatter_", "_reduce_scatter_base_", "gather_", "scatter_", "barrier"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&collective>());
}

TORCH_LIBRARY(emulated, m) {
  m.def("stream() -> int", &stream);
  m.def("set_stream(int number) -> ()", &set_stream);
  m.def("issued(int stream) -> int", &issued);
  m.def("device_reaches(int stream, int last) -> ()", &device_reaches);
  m.def("host_reaches(int stream, int last) -> ()", &host_reaches);
  m.def("device() -> int", &device);
  m.def("exchange_device(int to) -> int", &exchange_device);
  m.def("devices() -> int", &devices);
  m.def("waited(str what) -> ()", &waited);
  m.def("say_waits(int mode) -> ()", &say_waits);
  m.def("allocated() -> int", &now_allocated);
  m.def("most_allocated(bool anew) -> int", &most_allocated);
  m.def("set_common(int device, Generator? generator) -> ()", &set_common);
  m.def("capture_begin() -> ()", &capture_begin);
  m.def("capture_end() -> int", &capture_end);
  m.def("replay(int graph) -> ()", &replay);
  m.def("drop(int graph) -> ()", &drop);
}
