"""The floating-point mode of a thread, as LLVM IR: what others have set does not change a bit.

A library may let a thread take subnormal numbers for zero, as `torch.set_flush_denormal` does, or
round otherwise. Compiled code runs in the mode of IEEE 754, and leaves a thread as it was.
"""

from instep.engines.native.target import Target

#: Nothing is flushed, what is rounded is rounded to nearest, and no exception is trapped: the
#: control and status register of x86 as a process has it first (MXCSR).
_X86_MODE = 0x1F80


def emit_mode(target: Target) -> str:
    """Return the functions `take_mode`, which returns the mode that was, and `give_mode`."""
    if target.is_x86:
        return f"""\
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define internal i64 @take_mode() {{
  %place = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %place)
  %before = load i32, ptr %place
  store i32 {_X86_MODE}, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  %word = zext i32 %before to i64
  ret i64 %word
}}

define internal void @give_mode(i64 %word) {{
  %place = alloca i32
  %before = trunc i64 %word to i32
  store i32 %before, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  ret void
}}
"""
    if target.is_arm:  # FPCR: zero is the mode of IEEE 754
        return """\
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)

define internal i64 @take_mode() {
  %before = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 0)
  ret i64 %before
}

define internal void @give_mode(i64 %before) {
  call void @llvm.aarch64.set.fpcr(i64 %before)
  ret void
}
"""
    return """\
define internal i64 @take_mode() {
  ret i64 0
}

define internal void @give_mode(i64 %before) {
  ret void
}
"""
