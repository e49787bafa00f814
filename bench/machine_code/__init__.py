"""What the compilers made of the step kernels: PTX and machine code, read and held against limits."""
