{{/* Serves every variant: the coordinator adds it to the command line. */}}
{{- define "medvl.stage.eval" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "medvl.stageMetadata" (dict "root" . "stage" "eval") | nindent 2 }}
spec:
  {{- include "medvl.jobSpec" (dict
    "root" . "stage" "eval" "image" "eval" "model" "load" "gpus" .Values.eval.gpus) | nindent 2 }}
{{- end }}
