{{/*
One pod with all GPUs of a node, so that NCCL can use NVLink; Workers are more nodes. Restarts happen in place and keep
the GPUs and the weights: OnFailure is the only restart policy of a PyTorchJob that backoffLimit holds for.
*/}}
{{- define "medvl.stage.train" -}}
{{- $pod := dict "root" . "stage" "train" "image" "train" "container" "pytorch" "model" "load"
  "gpus" .Values.gpu.count "rdma" .Values.train.rdma "env" (include "medvl.trainEnv" . | fromYamlArray) -}}
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  {{- include "medvl.stageMetadata" (dict "root" . "stage" "train") | nindent 2 }}
spec:
  nprocPerNode: {{ int .Values.gpu.count | quote }}
  runPolicy:
    backoffLimit: {{ int64 .Values.train.backoffLimit }}
    cleanPodPolicy: {{ .Values.train.cleanPodPolicy }}
    {{- with include "medvl.timeLimits" .Values.train }}
    {{- . | nindent 4 }}
    {{- end }}
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: OnFailure
      template:
        {{- include "medvl.podTemplate" $pod | nindent 8 }}
    {{- if .Values.train.workers }}
    Worker:
      replicas: {{ int .Values.train.workers }}
      restartPolicy: OnFailure
      template:
        {{- include "medvl.podTemplate" $pod | nindent 8 }}
    {{- end }}
{{- end }}

{{/* What medvl's own watchdog does not end first, these make an error, with a record of the last collectives. */}}
{{- define "medvl.trainEnv" -}}
- {name: OMP_NUM_THREADS, value: {{ int .Values.train.threads | quote }}}
{{- if .Values.gpu.enabled }}
- {name: PYTORCH_CUDA_ALLOC_CONF, value: "expandable_segments:True"}
- {name: TORCH_NCCL_DUMP_ON_TIMEOUT, value: "1"}
- {name: TORCH_FR_BUFFER_SIZE, value: "2000"}
{{- with .Values.nccl }}
{{- if ne .nvls "auto" }}
- {name: NCCL_NVLS_ENABLE, value: {{ .nvls | quote }}}
{{- end }}
{{- with .socketInterface }}
- {name: NCCL_SOCKET_IFNAME, value: {{ . | quote }}}
{{- end }}
{{- with .debug }}
- {name: NCCL_DEBUG, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- with .Values.train.rdma }}
{{- if and .enabled .ibHca }}
- {name: NCCL_IB_HCA, value: {{ .ibHca | quote }}}
{{- end }}
{{- if and .enabled (not (kindIs "invalid" .gidIndex)) }}
- {name: NCCL_IB_GID_INDEX, value: {{ int .gidIndex | quote }}}
{{- end }}
{{- end }}
{{- with .Values.nccl.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}
