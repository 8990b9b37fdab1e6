{{- define "medvl.coordinatorSpec" -}}
{{- $pod := include "medvl.coordinatorPod" . | fromYaml -}}
{{- include "medvl.jobSpec" (merge (dict "root" . "failCodes" (list 69)) $pod) }}
{{- end }}

{{/* What the coordinator and the helm test have in common: arguments of the pod template. */}}
{{- define "medvl.coordinatorPod" -}}
{{- $plan := include "medvl.planName" . -}}
stage: coordinator
image: prep
account: coordinator
runConfigMap: {{ $plan }}
args: [run, --executor, cluster, --config, /etc/medvl/run.yaml]
env:
  - {name: MEDVL_CLUSTER__PLAN, value: {{ $plan }}}
  - {name: MEDVL_CLUSTER__GENERATION, value: {{ int64 .Values.attempt | quote }}}
  - {name: MEDVL_CLUSTER__NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: MEDVL_CLUSTER__IDENTITY, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
{{- end }}
