{{/* Fills a model cache that outlives the pods. */}}
{{- define "medvl.stage.model" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "medvl.stageMetadata" (dict "root" . "stage" "model") | nindent 2 }}
spec:
  {{- include "medvl.jobSpec" (dict "root" . "stage" "model" "image" "prep" "model" "fill") | nindent 2 }}
{{- end }}
