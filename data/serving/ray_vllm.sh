# One vLLM over two machines of four GPUs each, on a Ray cluster. Not executed for this course: it has no GPU.
# Both machines: the same vLLM (0.33.0, with ray), the model and the adapters under the same paths, a private network.
# Run each part where it says; HEAD is the first machine's address on that network.

# On both machines: the address on the private network, which vLLM's processes use among themselves, unencrypted.
export VLLM_HOST_IP=10.0.0.1  # its own on each

# On the first machine:
ray start --head --node-ip-address=$VLLM_HOST_IP --port=6379

# On the second:
ray start --address=HEAD:6379 --node-ip-address=$VLLM_HOST_IP

# On the first, once `ray status` counts eight GPUs. Each layer's matrices are cut over the four GPUs of a machine, whose
# links are fast (tensor parallelism); the layers are dealt out to the machines (pipeline parallelism).
vllm serve /models/base --served-model-name base \
  --tensor-parallel-size 4 --pipeline-parallel-size 2 --distributed-executor-backend ray \
  --enable-lora --max-loras 8 --max-cpu-loras 32 --max-lora-rank 16 \
  --lora-modules billing=/adapters/billing refunds=/adapters/refunds \
  --host 127.0.0.1 --port 8000
