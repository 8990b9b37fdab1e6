{{/* What the ConfigMap holds: the settings of the run, and the manifest of each stage. */}}
{{- define "medvl.planData" -}}
run.yaml: |
  {{- include "medvl.runYaml" . | nindent 2 }}
{{- if include "medvl.hasModelJob" . }}
model.yaml: |
  {{- include "medvl.stage.model" . | nindent 2 }}
{{- end }}
prep.yaml: |
  {{- include "medvl.stage.prep" . | nindent 2 }}
train.yaml: |
  {{- include "medvl.stage.train" . | nindent 2 }}
eval.yaml: |
  {{- include "medvl.stage.eval" . | nindent 2 }}
template.yaml: |
  {{- include "medvl.stage.template" . | nindent 2 }}
report.yaml: |
  {{- include "medvl.stage.report" . | nindent 2 }}
{{- end }}

{{- define "medvl.runYaml" -}}
{{- with .Values.run }}
{{- toYaml . }}
{{ end -}}
storage:
  uri: {{ list "s3:/" .Values.storage.bucket .Values.storage.prefix | compact | join "/" | quote }}
  {{- with .Values.storage.endpoint }}
  endpoint_url: {{ . | quote }}
  {{- end }}
  {{- with .Values.storage.region }}
  region: {{ . | quote }}
  {{- end }}
  path_style: {{ .Values.storage.pathStyle }}
  {{- if or .Values.storage.caBundle.existingConfigMap .Values.storage.caBundle.existingSecret }}
  ca_bundle: /etc/medvl-ca/ca.crt
  {{- end }}
cluster:
  attempts: {{ int64 .Values.coordinator.attempts }}
  give_up_after_seconds: {{ int64 .Values.coordinator.giveUpAfterSeconds }}
  resync_seconds: {{ int64 .Values.coordinator.resyncSeconds }}
{{- end }}
