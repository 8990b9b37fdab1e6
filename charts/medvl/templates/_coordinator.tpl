{{- define "medvl.coordinatorSpec" -}}
{{- include "medvl.jobSpec" (merge (dict "failCodes" (list 69)) (include "medvl.coordinatorPod" . | fromYaml) (dict "root" .)) }}
{{- end }}

{{/* What the coordinator and the helm test have in common: arguments of the pod template. */}}
{{- define "medvl.coordinatorPod" -}}
stage: coordinator
image: prep
account: coordinator
runConfigMap: {{ include "medvl.planName" . }}
args: [run, --executor, cluster, --config, /etc/medvl/run.yaml]
env:
  - {name: MEDVL_CLUSTER__PLAN, value: {{ include "medvl.planName" . }}}
  - {name: MEDVL_CLUSTER__GENERATION, value: {{ int64 .Values.attempt | quote }}}
  - {name: MEDVL_CLUSTER__NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: MEDVL_CLUSTER__IDENTITY, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
{{- end }}
