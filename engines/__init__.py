"""One contract, many runtimes: each module runs a bundle or a checkpoint on one of them."""
